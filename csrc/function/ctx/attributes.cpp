// The attributes of ctx and grad_fn.
#include <function/saved.h>
#include <function/state.h>
#include <python/error.h>
#include <python/method.h>

#include <torch/csrc/autograd/python_anomaly_mode.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/utils.h>

namespace torch_ext {

namespace {

using torch::autograd::SavedVariable;

// --- Objects that forward leaves on ctx for apply() to pick up ---------------

template <PyObject* THPFunction::* slot>
PyObject* get_object(PyObject* self, void*) {
  PyObject* value = as_state(self).base.*slot;
  return Py_NewRef(value != nullptr ? value : Py_None);
}

/// None and deletion both leave the slot empty.
template <PyObject* THPFunction::* slot>
int set_object(PyObject* self, PyObject* value, void*) {
  if (value == Py_None) {
    value = nullptr;
  }
  Ref old = Ref::steal(
      std::exchange(as_state(self).base.*slot, Py_XNewRef(value)));
  return 0;
}

PyObject* get_needs_input_grad(PyObject* self, void*) {
  return needs_input_grad(as_state(self));
}

int set_needs_input_grad(PyObject* self, PyObject* value, void* closure) {
  State& state = as_state(self);
  state.input_count = -1;
  compat::forget_needs_input_grad_bits(state.base);
  return set_object<&THPFunction::needs_input_grad>(self, value, closure);
}

PyObject* get_output_grad_dtypes(PyObject* self, void*) {
  PyObject* value = as_state(self).output_grad_dtypes();
  return Py_NewRef(value != nullptr ? value : Py_None);
}

int set_output_grad_dtypes(PyObject* self, PyObject* value, void*) {
  Ref old = Ref::steal(std::exchange(
      as_state(self).output_grad_dtypes(),
      value == Py_None ? nullptr : Py_XNewRef(value)));
  return 0;
}

// --- Flags -------------------------------------------------------------------

/// Sets a flag; `setter` is the name that torch gives in its message.
int set_flag(bool& flag, PyObject* value, const char* setter) {
  HANDLE_TH_ERRORS
  if (value == nullptr) {
    PyErr_Format(PyExc_TypeError, "%s: the flag can't be deleted", setter);
    return -1;
  }
  if (!PyBool_Check(value)) {
    THPUtils_invalidArguments(value, nullptr, setter, 1, "(bool)");
    return -1;
  }
  flag = value == Py_True;
  return 0;
  END_HANDLE_TH_ERRORS_RET(-1)
}

int set_materialize_grads(PyObject* self, PyObject* value, void*) {
  return set_flag(
      as_state(self).base.materialize_grads, value, "set_materialize_grads");
}

int set_pure_view(PyObject* self, PyObject* value, void*) {
  return set_flag(as_state(self).base.pure_view, value, "set_pure_view");
}

PyObject* get_materialize_non_diff_grads(PyObject* self, void*) {
  return PyBool_FromLong(as_state(self).base.materialize_non_diff_grads);
}

int set_materialize_non_diff_grads(PyObject* self, PyObject* value, void*) {
  return set_flag(
      as_state(self).base.materialize_non_diff_grads,
      value,
      "set_materialize_non_diff_grads");
}

PyObject* get_requires_grad(PyObject*, void*) {
  Py_RETURN_TRUE;
}

// --- Saved tensors -----------------------------------------------------------

PyObject* get_saved_tensors(PyObject* self, void*) {
  State& state = as_state(self);
  // jvp runs while the call lasts and sees what save_for_forward was given.
  if (state.base.saved_for_forward != nullptr &&
      !state.base.saved_tensors_accessed_and_cleared) {
    return Py_NewRef(state.base.saved_for_forward);
  }
  return saved_tensors(state);
}

PyObject* get_saved_variables(PyObject* self, void*) {
  if (PyErr_WarnEx(
          PyExc_DeprecationWarning,
          "'saved_variables' is deprecated; use 'saved_tensors'",
          0) != 0) {
    return nullptr;
  }
  return saved_tensors(as_state(self));
}

/// The saved variables themselves, to register pack and unpack hooks on. They
/// stay in place, emptied, for as long as the state lives.
PyObject* get_raw_saved_tensors(PyObject* self, void*) {
  HANDLE_TH_ERRORS
  State& state = as_state(self);
  TORCH_CHECK(!state.freed(), torch::autograd::ERR_BACKWARD_TWICE);
  auto& saved = state.saved_variables();
  Ref tuple = checked(PyTuple_New(static_cast<Py_ssize_t>(saved.size())));
  state.raw_saved_shown = true;
  for (size_t i = 0; i < saved.size(); ++i) {
    py::object item = py::cast(
        &saved[i], py::return_value_policy::reference_internal, self);
    PyTuple_SET_ITEM(
        tuple.get(), static_cast<Py_ssize_t>(i), item.release().ptr());
  }
  return tuple.release();
  END_HANDLE_TH_ERRORS
}

// --- The node's place in the graph -------------------------------------------

PyObject* get_next_functions(PyObject* self, void*) {
  HANDLE_TH_ERRORS
  const compat::NodePtr node = live_node(as_state(self), "next_functions");
  const auto count = node->num_outputs();
  Ref functions = checked(PyTuple_New(count));
  for (uint32_t i = 0; i < count; ++i) {
    const auto& edge = node->next_edge(i);
    Ref function = checked(torch::autograd::functionToPyObject(edge.function));
    Ref input_nr = checked(PyLong_FromUnsignedLong(edge.input_nr));
    PyTuple_SET_ITEM(
        functions.get(),
        i,
        checked(PyTuple_Pack(2, function.get(), input_nr.get())).release());
  }
  return functions.release();
  END_HANDLE_TH_ERRORS
}

PyObject* get_metadata(PyObject* self, void*) {
  HANDLE_TH_ERRORS
  const compat::NodePtr node = compat::node_of(as_state(self).base.cdata);
  TORCH_CHECK(
      node,
      "You attempted to access the anomaly metadata of a custom autograd "
      "function but the underlying PyNode has already been deallocated.  The "
      "most likely reason this occurred is because you assigned x.grad_fn to "
      "a local variable and then let the original variable get deallocated.  "
      "Don't do that!  If you really have no way of restructuring your code "
      "so this is the case, please file an issue reporting that you are "
      "affected by this.");
  auto* metadata =
      static_cast<torch::autograd::PyAnomalyMetadata*>(node->metadata());
  // Null where there was no memory for it, with the exception set.
  return Py_XNewRef(metadata->dict());
  END_HANDLE_TH_ERRORS
}

PyObject* get_input_metadata(PyObject* self, void*) {
  HANDLE_TH_ERRORS
  const compat::NodePtr node = live_node(as_state(self), "_input_metadata");
  const auto count = node->num_inputs();
  Ref tuple = checked(PyTuple_New(count));
  for (uint32_t i = 0; i < count; ++i) {
    PyTuple_SET_ITEM(
        tuple.get(), i, py::cast(node->input_metadata(i)).release().ptr());
  }
  return tuple.release();
  END_HANDLE_TH_ERRORS
}

// --- Compiled autograd -------------------------------------------------------

int set_backward_state(PyObject* self, PyObject* value, void*) {
  HANDLE_TH_ERRORS
  PyObject*& slot = as_state(self).base.compiled_autograd_backward_state;
  TORCH_CHECK_TYPE(
      value != nullptr, "_compiled_autograd_backward_state can't be deleted");
  TORCH_CHECK(
      slot == nullptr, "_compiled_autograd_backward_state is set already");
  slot = Py_NewRef(value);
  return 0;
  END_HANDLE_TH_ERRORS_RET(-1)
}

} // namespace

#define TORCH_EXT_ATTRIBUTE(name, get, set) \
  { name, Guarded<get>::call, Guarded<set>::call, nullptr, nullptr }
#define TORCH_EXT_SLOT(name)           \
  TORCH_EXT_ATTRIBUTE(                 \
      #name,                           \
      get_object<&THPFunction::name>,  \
      set_object<&THPFunction::name>)

PyGetSetDef state_attributes[] = {
    TORCH_EXT_SLOT(to_save),
    TORCH_EXT_SLOT(non_differentiable),
    TORCH_EXT_SLOT(dirty_tensors),
    TORCH_EXT_SLOT(saved_for_forward),
    TORCH_EXT_ATTRIBUTE(
        "needs_input_grad", get_needs_input_grad, set_needs_input_grad),
    TORCH_EXT_ATTRIBUTE("requires_grad", get_requires_grad, nullptr),
    TORCH_EXT_ATTRIBUTE("materialize_grads", nullptr, set_materialize_grads),
    TORCH_EXT_ATTRIBUTE("_is_pure_view", nullptr, set_pure_view),
    TORCH_EXT_ATTRIBUTE(
        "_materialize_non_diff_grads",
        get_materialize_non_diff_grads,
        set_materialize_non_diff_grads),
    TORCH_EXT_ATTRIBUTE("saved_tensors", get_saved_tensors, nullptr),
    TORCH_EXT_ATTRIBUTE("saved_variables", get_saved_variables, nullptr),
    TORCH_EXT_ATTRIBUTE("_raw_saved_tensors", get_raw_saved_tensors, nullptr),
    TORCH_EXT_ATTRIBUTE("next_functions", get_next_functions, nullptr),
    TORCH_EXT_ATTRIBUTE("metadata", get_metadata, nullptr),
    TORCH_EXT_ATTRIBUTE("_input_metadata", get_input_metadata, nullptr),
    TORCH_EXT_ATTRIBUTE(
        "_compiled_autograd_backward_state",
        get_object<&THPFunction::compiled_autograd_backward_state>,
        set_backward_state),
    TORCH_EXT_ATTRIBUTE(nullptr, nullptr, nullptr)};

PyObject* new_output_grad_dtypes() {
  static PyGetSetDef definition = {
      "output_grad_dtypes",
      Guarded<get_output_grad_dtypes>::call,
      Guarded<set_output_grad_dtypes>::call,
      PyDoc_STR("What set_output_grad_dtype() was given; None before."),
      nullptr};
  return PyDescr_NewGetSet(&StateType, &definition);
}

} // namespace torch_ext
