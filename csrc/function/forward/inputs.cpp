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

/// Where the tensor's gradient goes: impl::gradient_edge(), which takes its time
/// to find out that the tensor is no view. Only a view's history may have to be
/// made anew.
torch::autograd::Edge edge_of(const at::Tensor& tensor) {
  const AutogradMeta* meta = meta_of(tensor);
  if (meta == nullptr || meta->is_view_) {
    return torch::autograd::impl::gradient_edge(tensor);
  }
  if (meta->grad_fn_) {
    return {meta->grad_fn_, meta->output_nr_};
  }
  return {torch::autograd::impl::grad_accumulator(tensor), 0};
}

bool is_functorch_wrapper(const at::Tensor& tensor) {
  return tensor.key_set().has(c10::DispatchKey::FuncTorchGradWrapper);
}

} // namespace

Inputs::Inputs(const Arguments& arguments) {
  for (PyObject* argument : arguments) {
    if (!torch_ext::is_real_tensor(argument)) {
      is_tensor.push_back(false);
      requires_grad.push_back(false);
      continue;
    }
    const at::Tensor& tensor = THPVariable_Unpack(argument);
    tensors.push_back(&tensor);
    is_tensor.push_back(true);
    requires_grad.push_back(tensor.requires_grad());
    has_tangent |= torch_ext::has_tangent(tensor);
    has_wrapper |= is_functorch_wrapper(tensor);
  }
  executable = requires_grad.any() && at::GradMode::is_enabled();
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
    edges.push_back(edge_of(*input));
  }
  return edges;
}

Arguments unwrap_dead(const Arguments& arguments) {
  Ref functorch = checked(PyImport_ImportModule(compat::kFunctorchModule));
  Ref unwrap = checked(PyObject_GetAttr(functorch.get(), names.unwrap_if_dead));
  return Arguments(
      tuple_of(static_cast<size_t>(arguments.size()), [&](size_t i) {
        PyObject* argument = arguments.items()[i];
        return is_real_tensor(argument) &&
                is_functorch_wrapper(THPVariable_Unpack(argument))
            ? checked(PyObject_CallOneArg(unwrap.get(), argument))
            : Ref::share(argument);
      }));
}

} // namespace torch_ext
