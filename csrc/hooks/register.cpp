// SPDX-License-Identifier: BSD-3-Clause
#include <hooks/register.h>

#include <hooks/hook_dict.h>
#include <python/error.h>
#include <python/tensor.h>

#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/python_function.h>
#include <torch/csrc/autograd/python_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>

namespace torch_ext {

namespace {

using torch::autograd::Node;
using torch::autograd::PyFunctionPostHook;
using torch::autograd::PyFunctionPreHook;
using torch::autograd::PyFunctionTensorPostAccGradHooks;
using torch::autograd::PyFunctionTensorPreHook;
namespace impl = torch::autograd::impl;

THPVariable* differentiable_tensor(PyObject* object) {
  THPVariable* variable = require_tensor(object);
  TORCH_CHECK(
      variable->cdata.requires_grad(),
      "cannot register a hook on a tensor that doesn't require gradient");
  return variable;
}

/// An OrderedDict, which unlike a dict takes the weak references of handles.
Ref new_dict() {
  return checked(
      PyObject_CallNoArgs(reinterpret_cast<PyObject*>(&PyODict_Type)));
}

template <typename PyHook, typename Hooks>
bool has_python_hooks(const Hooks& hooks) {
  return each_python_hook<PyHook>(hooks, [](const PyHook&) { return 1; }) != 0;
}

} // namespace

Ref tensor_hooks(PyObject* object) {
  compat::CriticalSection of_tensor(object);
  THPVariable* variable = differentiable_tensor(object);
  const at::Tensor& tensor = variable->cdata;
  if (variable->backward_hooks == nullptr) {
    // grad_fn comes first: if the base of a view was changed in place, reading
    // it makes a new node, which drops the hooks of the tensor.
    auto node = tensor.grad_fn();
    Ref hooks = new_dict();
    // The tensor has its own as well, for when it is a leaf.
    impl::clear_hooks(tensor);
    impl::add_hook(
        tensor, std::make_unique<PyFunctionTensorPreHook>(hooks.get(), 0));
    if (node) {
      add_tensor_hooks(*node, tensor, hooks.get());
    }
    variable->backward_hooks = hooks.release();
  }
  return Ref::share(variable->backward_hooks);
}

Ref post_accumulate_grad_hooks(PyObject* object) {
  compat::CriticalSection of_tensor(object);
  THPVariable* variable = differentiable_tensor(object);
  const at::Tensor& tensor = variable->cdata;
  TORCH_CHECK(
      !tensor.grad_fn(),
      "post accumulate grad hooks cannot be registered on non-leaf tensors");
  if (variable->post_accumulate_grad_hooks == nullptr) {
    Ref hooks = new_dict();
    impl::set_post_acc_grad_hooks(
        tensor,
        std::make_unique<PyFunctionTensorPostAccGradHooks>(hooks.get()));
    variable->post_accumulate_grad_hooks = hooks.release();
  }
  return Ref::share(variable->post_accumulate_grad_hooks);
}

void add_tensor_hooks(Node& node, const at::Tensor& tensor, PyObject* hooks) {
  // A hook may register one on another output of the node while the engine
  // iterates over this vector, so the vector may not have to grow then.
  auto& all = node.tensor_pre_hooks();
  if (all.size() == all.capacity()) {
    all.reserve(node.num_inputs());
  }
  node.add_tensor_pre_hook(
      std::make_unique<PyFunctionTensorPreHook>(hooks, tensor.output_nr()));
}

// torch adds a hook to the dict of the first Python hook object of the node,
// ours or its own. So all that is needed is that there is one of ours.

Ref register_prehook(Node& node, PyObject* hook) {
  if (!has_python_hooks<PyFunctionPreHook>(node.pre_hooks())) {
    node.add_pre_hook(std::make_unique<PyFunctionPreHook>(new_dict().get()));
  }
  return checked(torch::autograd::registerFunctionPreHook(node, hook));
}

Ref register_posthook(Node& node, PyObject* hook) {
  if (!has_python_hooks<PyFunctionPostHook>(node.post_hooks())) {
    node.add_post_hook(std::make_unique<PyFunctionPostHook>(new_dict().get()));
  }
  return checked(torch::autograd::registerFunctionHook(node, hook));
}

compat::NodePtr node_of(PyObject* object) {
  if (PyObject_TypeCheck(object, &THPFunctionType)) {
    compat::NodePtr node =
        compat::node_of(reinterpret_cast<THPFunction*>(object)->cdata);
    TORCH_CHECK(
        node, "the node is gone with the last tensor that came from it");
    return node;
  }
  if (torch::autograd::THPCppFunction_Check(object)) {
    return reinterpret_cast<torch::autograd::THPCppFunction*>(object)->cdata;
  }
  raise(
      PyExc_TypeError,
      "expected a graph node, such as tensor.grad_fn, got %s",
      Py_TYPE(object)->tp_name);
}

} // namespace torch_ext
