// SPDX-License-Identifier: BSD-3-Clause
// The methods of ctx and grad_fn that are not Python's own (FunctionCtx has the
// rest).
#include <function/ctx/ctx.h>
#include <function/ctx/guarded.h>
#include <hooks/register.h>
#include <python/error.h>
#include <python/tensor.h>
#include <python/tuple.h>

#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/csrc/utils/python_numbers.h>

namespace torch_ext {

namespace {

PyObject* name(PyObject* self, PyObject*) {
  HANDLE_TH_ERRORS
  return PyUnicode_FromString(live_node(as_ctx(self), "name")->name().c_str());
  END_HANDLE_TH_ERRORS
}

PyObject* sequence_nr(PyObject* self, PyObject*) {
  HANDLE_TH_ERRORS
  return PyLong_FromUnsignedLongLong(
      live_node(as_ctx(self), "_sequence_nr")->sequence_nr());
  END_HANDLE_TH_ERRORS
}

PyObject* set_sequence_nr(PyObject* self, PyObject* number) {
  HANDLE_TH_ERRORS
  live_node(as_ctx(self), "_set_sequence_nr")
      ->set_sequence_nr(THPUtils_unpackUInt64(number));
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

/// Releases the saved tensors early, unless the running backward was asked to
/// retain the graph.
PyObject* maybe_clear_saved_tensors(PyObject* self, PyObject*) {
  HANDLE_TH_ERRORS
  if (!torch::autograd::get_current_graph_task_keep_graph()) {
    if (compat::NodePtr node = compat::node_of(as_ctx(self).base.cdata)) {
      node->release_variables();
    }
  }
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

PyObject* ctx_register_hook(PyObject* self, PyObject* hook) {
  HANDLE_TH_ERRORS
  return register_posthook(*live_node(as_ctx(self), "register_hook"), hook)
      .release();
  END_HANDLE_TH_ERRORS
}

PyObject* ctx_register_prehook(PyObject* self, PyObject* hook) {
  HANDLE_TH_ERRORS
  return register_prehook(*live_node(as_ctx(self), "register_prehook"), hook)
      .release();
  END_HANDLE_TH_ERRORS
}

/// Tensor.register_hook calls it with itself, its dict of hooks made.
PyObject* register_hook_dict(PyObject* self, PyObject* tensor) {
  HANDLE_TH_ERRORS
  TORCH_CHECK(is_real_tensor(tensor), "_register_hook_dict expected a Tensor");
  Ref hooks =
      Ref::share(reinterpret_cast<THPVariable*>(tensor)->backward_hooks);
  TORCH_CHECK(
      hooks && PyDict_Check(hooks.get()),
      "_register_hook_dict expected a Tensor with a dict of backward hooks; "
      "use Tensor.register_hook");
  add_tensor_hooks(
      *live_node(as_ctx(self), "_register_hook_dict"),
      THPVariable_Unpack(tensor),
      hooks.get());
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

PyObject* get_compiled_autograd_symints(PyObject* self, PyObject*) {
  HANDLE_TH_ERRORS
  const auto& symints = as_ctx(self).base.compiled_autograd_symints;
  Ref tuple = tuple_of(symints.size(), [&](size_t i) {
    return Ref::steal(py::cast(symints[i]).release().ptr());
  });
  return tuple.release();
  END_HANDLE_TH_ERRORS
}

} // namespace

#define TORCH_EXT_METHOD(name, function, flags) \
  {name, Guarded<function>::call, flags, nullptr}

PyMethodDef ctx_methods[] = {
    TORCH_EXT_METHOD("name", name, METH_NOARGS),
    TORCH_EXT_METHOD("_sequence_nr", sequence_nr, METH_NOARGS),
    TORCH_EXT_METHOD("_set_sequence_nr", set_sequence_nr, METH_O),
    TORCH_EXT_METHOD(
        "maybe_clear_saved_tensors",
        maybe_clear_saved_tensors,
        METH_NOARGS),
    TORCH_EXT_METHOD("register_hook", ctx_register_hook, METH_O),
    TORCH_EXT_METHOD("register_prehook", ctx_register_prehook, METH_O),
    TORCH_EXT_METHOD("_register_hook_dict", register_hook_dict, METH_O),
    TORCH_EXT_METHOD(
        "_get_compiled_autograd_symints",
        get_compiled_autograd_symints,
        METH_NOARGS),
    {nullptr, nullptr, 0, nullptr}};

} // namespace torch_ext
