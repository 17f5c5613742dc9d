// The functions behind torch_ext.hooks.
#include <hooks/register.h>

#include <torch/csrc/Exceptions.h>

namespace torch_ext {

namespace {

PyObject* py_tensor_hooks(PyObject*, PyObject* tensor) {
  HANDLE_TH_ERRORS
  return tensor_hooks(tensor);
  END_HANDLE_TH_ERRORS
}

PyObject* py_post_accumulate_grad_hooks(PyObject*, PyObject* tensor) {
  HANDLE_TH_ERRORS
  return post_accumulate_grad_hooks(tensor);
  END_HANDLE_TH_ERRORS
}

/// The node and the hook that a function was called with.
struct NodeAndHook {
  compat::NodePtr node;
  PyObject* hook;
};

NodeAndHook read(PyObject* arguments) {
  PyObject* node = nullptr;
  PyObject* hook = nullptr;
  if (!PyArg_ParseTuple(arguments, "OO", &node, &hook)) {
    throw python_error();
  }
  return {node_of(node), hook};
}

PyObject* py_register_prehook(PyObject*, PyObject* arguments) {
  HANDLE_TH_ERRORS
  auto [node, hook] = read(arguments);
  return register_prehook(*node, hook);
  END_HANDLE_TH_ERRORS
}

PyObject* py_register_posthook(PyObject*, PyObject* arguments) {
  HANDLE_TH_ERRORS
  auto [node, hook] = read(arguments);
  return register_posthook(*node, hook);
  END_HANDLE_TH_ERRORS
}

} // namespace

PyMethodDef hook_methods[] = {
    {"tensor_hooks",
     py_tensor_hooks,
     METH_O,
     PyDoc_STR("The tensor's _backward_hooks, made and attached on first use.")},
    {"post_accumulate_grad_hooks",
     py_post_accumulate_grad_hooks,
     METH_O,
     PyDoc_STR("The leaf's _post_accumulate_grad_hooks, made and attached on "
               "first use.")},
    {"register_prehook",
     py_register_prehook,
     METH_VARARGS,
     PyDoc_STR("node.register_prehook(hook), run by torch_ext where it is the "
               "first.")},
    {"register_posthook",
     py_register_posthook,
     METH_VARARGS,
     PyDoc_STR("node.register_hook(hook), run by torch_ext where it is the "
               "first.")},
    {nullptr, nullptr, 0, nullptr}};

} // namespace torch_ext
