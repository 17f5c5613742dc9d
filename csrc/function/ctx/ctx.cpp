// Life and death of the state object: allocation and the end.
#include <function/garbage.h>

#include <python/error.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/python_variable.h>

#include <new>

namespace torch_ext {

namespace {

using torch::autograd::SavedVariable;
using torch::autograd::VariableInfo;

PyObject* state_new(PyTypeObject* type, PyObject*, PyObject*) {
  PyObject* object = type->tp_alloc(type, 0);
  if (object == nullptr) {
    return nullptr;
  }
  HANDLE_TH_ERRORS
  // tp_alloc zeroes the memory; members whose zero is not their start follow.
  State& state = as_state(object);
  THPFunction& base = state.base;
  new (&base.compiled_autograd_symints) std::vector<c10::SymInt>();
  new (&base.output_info) std::vector<VariableInfo>();
  new (&base.input_info) std::vector<VariableInfo>();
  new (&base.saved_variables) std::vector<SavedVariable>();
  new (&base.is_variable_input) std::vector<bool>();
  new (&base.cdata) compat::NodeOfCtx();
  compat::construct_newer_members(base);
  new (&state.lent) std::vector<Ref>();
  new (&state.packed_inputs) PackedInfos();
  new (&state.packed_outputs) PackedInfos();
  new (&state.retired) std::vector<std::vector<SavedVariable>>();
  // torch's own apply, which may fill this state too, doesn't know of the flag.
  new (&state.maybe_saved) std::atomic<bool>(true);
  base.materialize_grads = true;
  base.materialize_non_diff_grads = true;
  state.input_count = -1;
  try {
    compat::make_node(object);
  } catch (...) {
    Py_DECREF(object); // state_dealloc copes with a missing node
    throw;
  }
  return object;
  END_HANDLE_TH_ERRORS
}

void state_dealloc(PyObject* object) {
  PyObject_GC_UnTrack(object);
  clear_state(object);
  State& state = as_state(object);
  THPFunction& base = state.base;
  compat::forget_ctx(base.cdata, object);
  // The node goes first: hooks and edges may refer to what is saved.
  std::destroy_at(&base.cdata);
  compat::destroy_newer_members(base);
  state.packed_outputs.~PackedInfos();
  state.packed_inputs.~PackedInfos();
  state.lent.~vector();
  state.retired.~vector();
  base.is_variable_input.~vector();
  base.saved_variables.~vector();
  base.input_info.~vector();
  base.output_info.~vector();
  base.compiled_autograd_symints.~vector();
  Py_TYPE(object)->tp_free(object);
}

} // namespace

PyObject* new_state(PyTypeObject* type) {
  // What type() does, less the argument tuples, unless a class on the way has
  // an __init__ or __new__ of its own.
  if (type->tp_new == state_new && type->tp_init == PyBaseObject_Type.tp_init &&
      Py_TYPE(type)->tp_call == PyType_Type.tp_call) {
    return state_new(type, nullptr, nullptr);
  }
  PyObject* object = PyObject_CallNoArgs(reinterpret_cast<PyObject*>(type));
  if (object != nullptr && !is_state_type(Py_TYPE(object))) {
    PyErr_Format(
        PyExc_TypeError,
        "%s() must return a grad_fn, got an object of type %s",
        type->tp_name,
        Py_TYPE(object)->tp_name);
    Py_CLEAR(object);
  }
  return object;
}

void drop_saved(State& state) {
  // Moved out first: what a tensor's end runs may look at this state.
  std::vector<SavedVariable> saved;
  compat::CriticalSection of_ctx(state.object());
  saved.swap(state.saved_variables());
  state.maybe_saved.store(false, std::memory_order_release);
  if (state.unpacking == 0) {
    for (auto& variable : saved) {
      variable = SavedVariable();
    }
  }
  if (state.unpacking != 0 || state.raw_saved_shown) {
    state.retired.push_back(std::move(saved));
  }
}

compat::NodePtr live_node(State& state, const char* attribute) {
  compat::NodePtr node = compat::node_of(state.base.cdata);
  TORCH_CHECK(
      node,
      "Attribute '",
      attribute,
      "' is invalid for this instance of _C._FunctionBase. "
      "Accessing this attribute directly on an instance of autograd.Function "
      "is a legacy access pattern that is no longer supported. For examples "
      "on how to use new\u2011style autograd functions, see "
      "https://pytorch.org/docs/stable/autograd.html#torch.autograd.Function ");
  return node;
}

namespace {

/// Makes ctx.needs_input_grad of what `needed(i)` says, and keeps it.
template <typename Needed>
PyObject* make_needs_input_grad(State& state, size_t count, Needed needed) {
  PyObject* tuple = PyTuple_New(static_cast<Py_ssize_t>(count));
  if (tuple == nullptr) {
    return nullptr;
  }
  for (size_t i = 0; i < count; ++i) {
    PyTuple_SET_ITEM(
        tuple,
        static_cast<Py_ssize_t>(i),
        Py_NewRef(needed(i) ? Py_True : Py_False));
  }
  state.base.needs_input_grad = tuple;
  return Py_NewRef(tuple);
}

} // namespace

PyObject* needs_input_grad(State& state) {
  if (state.base.needs_input_grad != nullptr) {
    return Py_NewRef(state.base.needs_input_grad);
  }
  if (state.input_count >= 0) {
    const uint64_t bits = state.needs_input_grad;
    return make_needs_input_grad(
        state,
        static_cast<size_t>(state.input_count),
        [bits](size_t i) { return bits >> i & 1; });
  }
  HANDLE_TH_ERRORS
  if (const auto bits = compat::needs_input_grad_bits(state.base)) {
    return make_needs_input_grad(
        state, bits->size(), [&](size_t i) { return (*bits)[i]; });
  }
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

namespace {

/// isinstance(object, cls), or isinstance(object, torch's class behind it).
PyObject* meta_instancecheck(PyObject* cls, PyObject* object) {
  auto* type = reinterpret_cast<PyTypeObject*>(cls);
  if (PyObject_TypeCheck(object, type)) {
    Py_RETURN_TRUE;
  }
  const Ref bases = Ref::share(type->tp_bases);
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(bases.get()); ++i) {
    auto* base =
        reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(bases.get(), i));
    if (base != &StateType && PyObject_TypeCheck(object, base)) {
      Py_RETURN_TRUE;
    }
  }
  Py_RETURN_FALSE;
}

PyMethodDef meta_methods[] = {
    {"__instancecheck__", meta_instancecheck, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr}};

} // namespace

PyTypeObject StateMetaType{};
PyTypeObject StateType{};

bool init_state_types() {
  if (StateType.tp_dict != nullptr) {
    return true;
  }
  Py_SET_REFCNT(reinterpret_cast<PyObject*>(&StateMetaType), 1);
  StateMetaType.tp_name = "torch_ext._C.FunctionStateMeta";
  StateMetaType.tp_basicsize = PyType_Type.tp_basicsize;
  StateMetaType.tp_itemsize = PyType_Type.tp_itemsize;
  StateMetaType.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE;
  StateMetaType.tp_base = &PyType_Type;
  StateMetaType.tp_methods = meta_methods;

  Py_SET_REFCNT(reinterpret_cast<PyObject*>(&StateType), 1);
  // torch's own name: Python puts it into the messages of attribute errors.
  StateType.tp_name = THPFunctionType.tp_name;
  StateType.tp_doc = PyDoc_STR(
      "The ctx of a Function's call, and the grad_fn of what it returned.");
  StateType.tp_basicsize = sizeof(State);
  StateType.tp_flags =
      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC;
  StateType.tp_base = &THPFunctionType;
  StateType.tp_new = state_new;
  StateType.tp_dealloc = state_dealloc;
  StateType.tp_traverse = traverse_state;
  StateType.tp_clear = clear_state;
  StateType.tp_getset = state_attributes;
  StateType.tp_methods = state_methods;
  return PyType_Ready(&StateMetaType) == 0 && PyType_Ready(&StateType) == 0;
}

} // namespace torch_ext
