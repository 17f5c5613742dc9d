// SPDX-License-Identifier: BSD-3-Clause
#include <cpp/torch_kernel.h>

#include <cpp/private_member.h>

#include <dlfcn.h>

#include <string_view>

namespace torch_ext {

namespace {

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

} // namespace

TorchKernel::TorchKernel(const OperatorHandle& op, c10::DispatchKeySet keys) {
  const auto& entry =
      private_member(Definition(), const_cast<OperatorHandle&>(op))->op;
  auto& kernel = const_cast<KernelFunction&>(entry.lookup(keys));
  symbolic_ = &private_member(SymUnboxed(), kernel);
  unboxed_ = &private_member(Unboxed(), kernel);
  function_ = is_torchs(current()) ? current() : nullptr;
}

} // namespace torch_ext
