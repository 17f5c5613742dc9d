// SPDX-License-Identifier: BSD-3-Clause
#include <function/forward/inputs.h>

#include <python/error.h>
#include <python/names.h>
#include <python/tensor.h>
#include <python/tuple.h>

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/variable.h>

#include <utility>

namespace torch_ext {

namespace {

using torch::autograd::AutogradMeta;
using torch::autograd::DifferentiableViewMeta;

const AutogradMeta* meta_of(const at::TensorBase& tensor) {
  return static_cast<const AutogradMeta*>(
      tensor.unsafeGetTensorImpl()->autograd_meta());
}

/// Whether the tensor has a forward-mode tangent. Asks torch only if it may: a
/// tangent is the tensor's own, or that of the tensor that it is a view of.
bool has_tangent(const at::Tensor& tensor) {
  const AutogradMeta* meta = meta_of(tensor);
  if (meta == nullptr) {
    return false;
  }
  bool may_have = meta->fw_grad_ != nullptr;
  if (!may_have && meta->is_view_) {
    const auto* view = static_cast<const DifferentiableViewMeta*>(meta);
    const AutogradMeta* base =
        view->has_fw_view() ? meta_of(view->get_forward_view().base_) : nullptr;
    may_have = base != nullptr && base->fw_grad_ != nullptr;
  }
  return may_have && tensor._fw_grad(/*level=*/0).defined();
}

} // namespace

Inputs::Inputs(const Arguments& arguments) {
  const auto count = static_cast<size_t>(arguments.size());
  is_tensor.reserve(count);
  requires_grad.reserve(count);
  bool any_requires_grad = false;
  for (PyObject* argument : arguments) {
    if (!torch_ext::is_real_tensor(argument)) {
      is_tensor.push_back(false);
      requires_grad.push_back(false);
      continue;
    }
    const at::Tensor& tensor = THPVariable_Unpack(argument);
    const bool needs_grad = tensor.requires_grad();
    tensors.push_back(&tensor);
    is_tensor.push_back(true);
    requires_grad.push_back(needs_grad);
    any_requires_grad |= needs_grad;
    has_tangent |= torch_ext::has_tangent(tensor);
  }
  executable = any_requires_grad && at::GradMode::is_enabled();
}

bool Inputs::contains(const at::Tensor& tensor) const {
  for (const at::Tensor* input : tensors) {
    if (input->is_same(tensor)) {
      return true;
    }
  }
  return false;
}

torch::autograd::edge_list Inputs::edges() const {
  torch::autograd::edge_list edges;
  edges.reserve(tensors.size());
  for (const at::Tensor* input : tensors) {
    edges.push_back(torch::autograd::impl::gradient_edge(*input));
  }
  return edges;
}

namespace {

bool is_functorch_wrapper(PyObject* object) {
  return is_real_tensor(object) &&
      THPVariable_Unpack(object).key_set().has(
          c10::DispatchKey::FuncTorchGradWrapper);
}

} // namespace

Arguments unwrap_dead(Arguments arguments) {
  bool any = false;
  for (PyObject* argument : arguments) {
    any |= is_functorch_wrapper(argument);
  }
  if (!any) {
    return arguments;
  }
  Ref functorch = checked(PyImport_ImportModule(compat::kFunctorchModule));
  Ref unwrap = checked(PyObject_GetAttr(functorch.get(), names.unwrap_if_dead));
  return Arguments(
      tuple_of(static_cast<size_t>(arguments.size()), [&](size_t i) {
        PyObject* argument = arguments.items()[i];
        return is_functorch_wrapper(argument)
            ? checked(PyObject_CallOneArg(unwrap.get(), argument))
            : Ref::share(argument);
      }));
}

} // namespace torch_ext
