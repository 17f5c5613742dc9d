// SPDX-License-Identifier: BSD-3-Clause
// The functions behind torch_ext.hooks.
#include <hooks/register.h>

#include <compat.h>
#include <python/error.h>

namespace torch_ext {

namespace {

PyObject* py_tensor_hooks(PyObject*, PyObject* tensor) {
  HANDLE_TH_ERRORS
  return tensor_hooks(tensor).release();
  END_HANDLE_TH_ERRORS
}

PyObject* py_post_accumulate_grad_hooks(PyObject*, PyObject* tensor) {
  HANDLE_TH_ERRORS
  return post_accumulate_grad_hooks(tensor).release();
  END_HANDLE_TH_ERRORS
}

/// add(node, hook), with the two arguments that Python has passed.
Ref add_to_node(
    PyObject* arguments,
    Ref (*add)(torch::autograd::Node&, PyObject*)) {
  PyObject* node = nullptr;
  PyObject* hook = nullptr;
  if (!PyArg_ParseTuple(arguments, "OO", &node, &hook)) {
    throw_python_error();
  }
  compat::CriticalSection of_node(node);
  return add(*node_of(node), hook);
}

PyObject* py_register_prehook(PyObject*, PyObject* arguments) {
  HANDLE_TH_ERRORS
  return add_to_node(arguments, register_prehook).release();
  END_HANDLE_TH_ERRORS
}

PyObject* py_register_posthook(PyObject*, PyObject* arguments) {
  HANDLE_TH_ERRORS
  return add_to_node(arguments, register_posthook).release();
  END_HANDLE_TH_ERRORS
}

} // namespace

PyMethodDef hook_methods[] = {
    {"tensor_hooks",
     py_tensor_hooks,
     METH_O,
     PyDoc_STR(
         "The tensor's _backward_hooks, made and attached on first use.")},
    {"post_accumulate_grad_hooks",
     py_post_accumulate_grad_hooks,
     METH_O,
     PyDoc_STR(
         "The leaf's _post_accumulate_grad_hooks, made and attached on "
         "first use.")},
    {"register_prehook",
     py_register_prehook,
     METH_VARARGS,
     PyDoc_STR(
         "node.register_prehook(hook), run by torch_ext if it is the "
         "first.")},
    {"register_posthook",
     py_register_posthook,
     METH_VARARGS,
     PyDoc_STR(
         "node.register_hook(hook), run by torch_ext if it is the "
         "first.")},
    {nullptr, nullptr, 0, nullptr}};

} // namespace torch_ext
