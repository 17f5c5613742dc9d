// SPDX-License-Identifier: BSD-3-Clause
// The attributes of ctx and grad_fn.
#include <function/ctx/ctx.h>
#include <function/ctx/guarded.h>
#include <function/ctx/saved.h>
#include <function/ctx/type.h>
#include <python/error.h>
#include <python/names.h>
#include <python/tuple.h>

#include <torch/csrc/autograd/python_anomaly_mode.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/utils.h>
#include <torch/csrc/utils/pybind.h>

#include <utility>

namespace torch_ext {

namespace {

using torch::autograd::SavedVariable;

// --- Objects that forward leaves on ctx for apply() to pick up ---------------

template <PyObject* THPFunction::* slot>
PyObject* get_object(PyObject* self, void*) {
  PyObject* value = as_ctx(self).base.*slot;
  return Py_NewRef(value != nullptr ? value : Py_None);
}

/// None and deletion both leave the slot empty.
template <PyObject* THPFunction::* slot>
int set_object(PyObject* self, PyObject* value, void*) {
  if (value == Py_None) {
    value = nullptr;
  }
  Ref old =
      Ref::steal(std::exchange(as_ctx(self).base.*slot, Py_XNewRef(value)));
  return 0;
}

PyObject* get_needs_input_grad(PyObject* self, void*) {
  return to_slot([self] { return needs_input_grad(as_ctx(self)); });
}

int set_needs_input_grad(PyObject* self, PyObject* value, void* closure) {
  Ctx& ctx = as_ctx(self);
  ctx.input_count = -1;
  compat::forget_needs_input_grad_bits(ctx.base);
  return set_object<&THPFunction::needs_input_grad>(self, value, closure);
}

PyObject* get_output_grad_dtypes(PyObject* self, void*) {
  PyObject* value = as_ctx(self).output_grad_dtypes();
  return Py_NewRef(value != nullptr ? value : Py_None);
}

int set_output_grad_dtypes(PyObject* self, PyObject* value, void*) {
  Ref old = Ref::steal(
      std::exchange(
          as_ctx(self).output_grad_dtypes(),
          value == Py_None ? nullptr : Py_XNewRef(value)));
  return 0;
}

// --- Flags -------------------------------------------------------------------

/// Sets a flag; `setter` is the name that torch gives in its message.
int py_set_flag(bool& flag, PyObject* value, const char* setter) {
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
  return py_set_flag(
      as_ctx(self).base.materialize_grads, value, "set_materialize_grads");
}

int set_pure_view(PyObject* self, PyObject* value, void*) {
  return py_set_flag(as_ctx(self).base.pure_view, value, "set_pure_view");
}

PyObject* get_materialize_non_diff_grads(PyObject* self, void*) {
  return PyBool_FromLong(as_ctx(self).base.materialize_non_diff_grads);
}

int set_materialize_non_diff_grads(PyObject* self, PyObject* value, void*) {
  return py_set_flag(
      as_ctx(self).base.materialize_non_diff_grads,
      value,
      "set_materialize_non_diff_grads");
}

PyObject* get_requires_grad(PyObject*, void*) {
  Py_RETURN_TRUE;
}

// --- Saved tensors -----------------------------------------------------------

PyObject* get_saved_tensors(PyObject* self, void*) {
  Ctx& ctx = as_ctx(self);
  // jvp runs while the call lasts and sees what save_for_forward was given.
  if (ctx.base.saved_for_forward != nullptr &&
      !ctx.base.saved_tensors_accessed_and_cleared) {
    return Py_NewRef(ctx.base.saved_for_forward);
  }
  HANDLE_TH_ERRORS
  return saved_tensors(ctx).release();
  END_HANDLE_TH_ERRORS
}

PyObject* get_saved_variables(PyObject* self, void*) {
  if (PyErr_WarnEx(
          PyExc_DeprecationWarning,
          "'saved_variables' is deprecated; use 'saved_tensors'",
          0) != 0) {
    return nullptr;
  }
  HANDLE_TH_ERRORS
  return saved_tensors(as_ctx(self)).release();
  END_HANDLE_TH_ERRORS
}

/// The saved variables themselves, to register pack and unpack hooks on. They
/// stay in place, emptied, for as long as the ctx lives.
PyObject* get_raw_saved_tensors(PyObject* self, void*) {
  HANDLE_TH_ERRORS
  Ctx& ctx = as_ctx(self);
  TORCH_CHECK(!ctx.freed(), torch::autograd::ERR_BACKWARD_TWICE);
  auto& saved = ctx.saved_variables();
  ctx.raw_saved_shown = true;
  return tuple_of(
             saved.size(),
             [&](size_t i) {
               py::object item = py::cast(
                   &saved[i],
                   py::return_value_policy::reference_internal,
                   self);
               return Ref::steal(item.release().ptr());
             })
      .release();
  END_HANDLE_TH_ERRORS
}

// --- The node's place in the graph -------------------------------------------

PyObject* get_next_functions(PyObject* self, void*) {
  HANDLE_TH_ERRORS
  const compat::NodePtr node = live_node(as_ctx(self), "next_functions");
  Ref functions = tuple_of(node->num_outputs(), [&](size_t i) {
    const auto& edge = node->next_edge(i);
    Ref function = checked(torch::autograd::functionToPyObject(edge.function));
    Ref input_nr = checked(PyLong_FromUnsignedLong(edge.input_nr));
    return checked(PyTuple_Pack(2, function.get(), input_nr.get()));
  });
  return functions.release();
  END_HANDLE_TH_ERRORS
}

PyObject* get_metadata(PyObject* self, void*) {
  HANDLE_TH_ERRORS
  const compat::NodePtr node = compat::node_of(as_ctx(self).base.cdata);
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
  // Null, with the exception set, if there was no memory for it.
  return Py_XNewRef(metadata->dict());
  END_HANDLE_TH_ERRORS
}

PyObject* get_input_metadata(PyObject* self, void*) {
  HANDLE_TH_ERRORS
  const compat::NodePtr node = live_node(as_ctx(self), "_input_metadata");
  Ref tuple = tuple_of(node->num_inputs(), [&](size_t i) {
    return Ref::steal(py::cast(node->input_metadata(i)).release().ptr());
  });
  return tuple.release();
  END_HANDLE_TH_ERRORS
}

// --- Compiled autograd -------------------------------------------------------

int set_backward_state(PyObject* self, PyObject* value, void*) {
  HANDLE_TH_ERRORS
  PyObject*& slot = as_ctx(self).base.compiled_autograd_backward_state;
  TORCH_CHECK_TYPE(
      value != nullptr, "_compiled_autograd_backward_state can't be deleted");
  TORCH_CHECK(
      slot == nullptr, "_compiled_autograd_backward_state is set already");
  slot = Py_NewRef(value);
  return 0;
  END_HANDLE_TH_ERRORS_RET(-1)
}

/// cls._backward_cls, as on stock torch, of which the type is a subclass.
PyObject* get_backward_cls(PyObject* self, void*) {
  return Py_NewRef(reinterpret_cast<PyObject*>(made_from(Py_TYPE(self))));
}

int set_backward_cls(PyObject* self, PyObject* value, void*) {
  Ref inherited = compat::type_lookup(&PyBaseObject_Type, names.__class__);
  return Py_TYPE(inherited.get())->tp_descr_set(inherited.get(), self, value);
}

// --- What torch reads from its own member ------------------------------------

/// torch's own getter, which looks at base.is_variable_input.
PyObject* get_input_grad_buffers(PyObject* self, void*) {
  return to_slot([self] {
    Ctx& ctx = as_ctx(self);
    ctx.base.is_variable_input = ctx.are_tensors().to_vector();
    Ref inherited =
        compat::type_lookup(&THPFunctionType, names._input_grad_buffers);
    return checked(Py_TYPE(inherited.get())
                       ->tp_descr_get(
                           inherited.get(),
                           self,
                           reinterpret_cast<PyObject*>(Py_TYPE(self))));
  });
}

} // namespace

#define TORCH_EXT_ATTRIBUTE(name, get, set) \
  {name, Guarded<get>::call, Guarded<set>::call, nullptr, nullptr}
#define TORCH_EXT_SLOT(name) \
  TORCH_EXT_ATTRIBUTE(       \
      #name, get_object<&THPFunction::name>, set_object<&THPFunction::name>)

PyGetSetDef ctx_attributes[] = {
    {"__class__", get_backward_cls, set_backward_cls, nullptr, nullptr},
    TORCH_EXT_SLOT(to_save),
    TORCH_EXT_SLOT(non_differentiable),
    TORCH_EXT_SLOT(dirty_tensors),
    TORCH_EXT_SLOT(saved_for_forward),
    TORCH_EXT_ATTRIBUTE(
        "needs_input_grad",
        get_needs_input_grad,
        set_needs_input_grad),
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

Ref new_output_grad_dtypes() {
  static PyGetSetDef definition = {
      "output_grad_dtypes",
      Guarded<get_output_grad_dtypes>::call,
      Guarded<set_output_grad_dtypes>::call,
      PyDoc_STR("What set_output_grad_dtype() was given; None before."),
      nullptr};
  return checked(PyDescr_NewGetSet(&CtxType, &definition));
}

void add_input_grad_buffers() {
  if (!compat::type_lookup(&THPFunctionType, names._input_grad_buffers)) {
    return; // torch 2.14 and older
  }
  static PyGetSetDef definition = {
      "_input_grad_buffers",
      Guarded<get_input_grad_buffers>::call,
      nullptr,
      nullptr,
      nullptr};
  Ref getter = checked(PyDescr_NewGetSet(&CtxType, &definition));
  check_status(
      PyDict_SetItem(CtxType.tp_dict, names._input_grad_buffers, getter.get()));
  PyType_Modified(&CtxType);
}

} // namespace torch_ext
