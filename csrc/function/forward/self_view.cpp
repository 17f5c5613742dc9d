// SPDX-License-Identifier: BSD-3-Clause
#include <function/forward/self_view.h>

#include <compat.h>
#include <cpp/torch_kernel.h>
#include <function/forward/no_grad.h>
#include <function/torch_own.h>
#include <python/error.h>
#include <python/names.h>
#include <python/tensor.h>

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/view_native.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>

#include <algorithm>
#include <array>

namespace torch_ext {

namespace {

using c10::DispatchKey;
using c10::DispatchKeySet;

/// A kind of tensor whose views are made directly, and what
/// tensor.view_as(tensor) runs on the way, one after the other.
struct Kind {
  DispatchKeySet keys;
  std::array<TorchKernel, 4> kernels{};
};

constexpr DispatchKeySet kCudaKeys(
    {DispatchKey::CUDA,
     DispatchKey::AutogradCUDA,
     DispatchKey::ADInplaceOrView});

constinit std::array<Kind, 2> kinds{Kind{kCpuKeys}, Kind{kCudaKeys}};

/// Whether tensor.view_as(tensor) would end in make_view(), with nobody on the
/// way who could tell.
bool has_direct_view(const at::Tensor& tensor) {
  const at::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  const DispatchKeySet keys = impl->key_set() - c10::autocast_dispatch_keyset;
  for (const Kind& kind : kinds) {
    if (keys == kind.keys) {
      return !impl->has_symbolic_sizes_strides() && dispatches_plainly() &&
          !c10::AutogradState::get_tls_state().get_view_replay_enabled() &&
          are_torchs_own(kind.kernels);
    }
  }
  return false;
}

/// What torch's kernel for view makes of a plain tensor and its own sizes. It
/// computes strides that come out as they were, except that a dimension of size
/// 1 may get another.
at::Tensor view_of_own_sizes(const at::Tensor& tensor) {
  const c10::IntArrayRef sizes = tensor.sizes();
  if (std::find(sizes.begin(), sizes.end(), 1) != sizes.end()) {
    return at::native::view(tensor, sizes);
  }
  at::Tensor view = at::detail::make_tensor<c10::TensorImpl>(
      c10::TensorImpl::VIEW,
      c10::Storage(tensor.storage()),
      tensor.key_set(),
      tensor.dtype());
  view.unsafeGetTensorImpl()->set_sizes_and_strides(
      sizes, tensor.strides(), tensor.storage_offset());
  return view;
}

/// What torch's kernels for view do under no_grad.
at::Tensor make_view(const at::Tensor& tensor) {
  return torch::autograd::as_view(
      tensor,
      view_of_own_sizes(tensor),
      /*is_bw_differentiable=*/true,
      /*is_fw_differentiable=*/true,
      /*view_func=*/nullptr,
      /*rev_view_func=*/nullptr,
      torch::autograd::CreationMeta::NO_GRAD_MODE);
}

/// Whether tensor.view_as(tensor) in Python would go straight to ATen: the
/// tensor is plain, no mode intercepts, and the method is torch's own.
bool has_plain_view_as(PyObject* object) {
  return THPVariable_CheckExact(object) &&
      !at::impl::torch_function_mode_enabled() &&
      compat::type_lookup(Py_TYPE(object), names.view_as).get() ==
      torch_own.view_as.get();
}

} // namespace

void init_self_views() {
  auto& dispatcher = c10::Dispatcher::singleton();
  const auto view = dispatcher.findSchemaOrThrow("aten::view", "");
  const auto view_as = dispatcher.findSchemaOrThrow("aten::view_as", "");
  for (Kind& kind : kinds) {
    const DispatchKey backend =
        kind.keys == kCpuKeys ? DispatchKey::CPU : DispatchKey::CUDA;
    if (view.hasComputedKernelForDispatchKey(backend)) { // not without CUDA
      kind.kernels = {
          TorchKernel(view_as, kind.keys),
          TorchKernel(view, kind.keys),
          TorchKernel(view, kind.keys & c10::after_autograd_keyset),
          TorchKernel(view, kind.keys & c10::after_ADInplaceOrView_keyset)};
    }
  }
}

at::Tensor view_as_self_by_python(const at::Tensor& tensor) {
  Ref object = checked(THPVariable_Wrap(tensor));
  Ref view = checked(PyObject_CallMethodObjArgs(
      object.get(), names.view_as, object.get(), nullptr));
  TORCH_CHECK_TYPE(
      is_real_tensor(view.get()),
      "view_as of an output of type ",
      Py_TYPE(object.get())->tp_name,
      " must return a Tensor, got ",
      Py_TYPE(view.get())->tp_name);
  return THPVariable_Unpack(view.get());
}

at::Tensor view_as_self(PyObject* object) {
  const at::Tensor& tensor = THPVariable_Unpack(object);
  const bool is_plain = has_plain_view_as(object);
  if (is_plain && has_direct_view(tensor)) {
    return make_view(tensor);
  }
  const NoGrad no_grad;
  return is_plain ? tensor.view_as(tensor) : view_as_self_by_python(tensor);
}

} // namespace torch_ext
