// SPDX-License-Identifier: BSD-3-Clause
#include <function/forward/self_view.h>

#include <compat.h>
#include <cpp/private_member.h>
#include <function/forward/no_grad.h>
#include <function/torch_own.h>
#include <python/error.h>
#include <python/names.h>
#include <python/tensor.h>

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/view_native.h>
#include <ATen/record_function.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace torch_ext {

namespace {

using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::KernelFunction;
using c10::OperatorHandle;

struct Definition : MemberOf<OperatorHandle> {};
struct Unboxed : MemberOf<KernelFunction> {};
struct SymUnboxed : MemberOf<KernelFunction> {};
auto& private_member(Definition, OperatorHandle& op);
auto& private_member(Unboxed, KernelFunction& kernel);
auto& private_member(SymUnboxed, KernelFunction& kernel);
template struct PrivateMember<Definition, &OperatorHandle::operatorDef_>;
template struct PrivateMember<Unboxed, &KernelFunction::unboxed_kernel_func_>;
template struct PrivateMember<
    SymUnboxed,
    &KernelFunction::sym_unboxed_kernel_func_>;

/// The C++ function of a kernel; null if it is Python's.
void* function_of(const KernelFunction& constant) {
  auto& kernel = const_cast<KernelFunction&>(constant);
  void* symbolic = private_member(SymUnboxed(), kernel);
  return symbolic != nullptr ? symbolic : private_member(Unboxed(), kernel);
}

/// Whether code belongs to one of torch's own libraries, none of which adds
/// operators to another's.
bool is_torchs(void* code) {
  Dl_info info{};
  if (code == nullptr || dladdr(code, &info) == 0) {
    return false;
  }
  std::string_view path(info.dli_fname);
  return path.substr(path.rfind('/') + 1).substr(0, 8) == "libtorch";
}

/// A kernel's place in an operator's table, whatever is put there later, and
/// the function that torch has there.
struct Step {
  const KernelFunction* kernel = nullptr;
  void* function = nullptr;

  bool is_torchs_own() const {
    return function != nullptr && function_of(*kernel) == function;
  }
};

/// A kind of tensor whose views are made directly, and what
/// tensor.view_as(tensor) runs on the way, one after the other.
struct Kind {
  DispatchKeySet keys;
  std::array<Step, 4> steps{};

  bool is_torchs_own() const {
    return std::all_of(steps.begin(), steps.end(), [](const Step& step) {
      return step.is_torchs_own();
    });
  }
};

constexpr DispatchKeySet kCpuKeys(
    {DispatchKey::CPU, DispatchKey::AutogradCPU, DispatchKey::ADInplaceOrView});
constexpr DispatchKeySet kCudaKeys(
    {DispatchKey::CUDA,
     DispatchKey::AutogradCUDA,
     DispatchKey::ADInplaceOrView});

constinit std::array<Kind, 2> kinds{Kind{kCpuKeys}, Kind{kCudaKeys}};

/// An operator's table, which lives as long as the process.
const c10::impl::OperatorEntry& entry_of(const char* name) {
  OperatorHandle op = c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
  return private_member(Definition(), op)->op;
}

/// Whether operators of this thread go straight to the kernels: no mode, no
/// transform, no tracer and nobody who watches.
bool dispatches_plainly() {
  const c10::impl::LocalDispatchKeySet local =
      c10::impl::tls_local_dispatch_key_set();
  return local.included_ == c10::default_included_set &&
      local.excluded_ == c10::default_excluded_set &&
      !c10::AutogradState::get_tls_state().get_view_replay_enabled() &&
      !at::getStepCallbacksUnlessEmpty(at::RecordScope::FUNCTION);
}

/// Whether tensor.view_as(tensor) would end in make_view(), with nobody on the
/// way who could tell.
bool has_direct_view(const at::Tensor& tensor) {
  const at::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  const DispatchKeySet keys = impl->key_set() - c10::autocast_dispatch_keyset;
  for (const Kind& kind : kinds) {
    if (keys == kind.keys) {
      return !impl->has_symbolic_sizes_strides() && dispatches_plainly() &&
          kind.is_torchs_own();
    }
  }
  return false;
}

/// What torch's kernels for view do under no_grad.
at::Tensor make_view(const at::Tensor& tensor) {
  return torch::autograd::as_view(
      tensor,
      at::native::view(tensor, tensor.sizes()),
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
  const c10::impl::OperatorEntry& view = entry_of("aten::view");
  const c10::impl::OperatorEntry& view_as = entry_of("aten::view_as");
  for (Kind& kind : kinds) {
    const DispatchKey backend =
        kind.keys == kCpuKeys ? DispatchKey::CPU : DispatchKey::CUDA;
    if (!view.hasComputedKernelForDispatchKey(backend)) {
      continue; // a torch without CUDA
    }
    const KernelFunction* kernels[] = {
        &view_as.lookup(kind.keys),
        &view.lookup(kind.keys),
        &view.lookup(kind.keys & c10::after_autograd_keyset),
        &view.lookup(kind.keys & c10::after_ADInplaceOrView_keyset)};
    for (size_t i = 0; i < kind.steps.size(); ++i) {
      void* function = function_of(*kernels[i]);
      kind.steps[i] = {kernels[i], is_torchs(function) ? function : nullptr};
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
