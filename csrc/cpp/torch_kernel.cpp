// SPDX-License-Identifier: BSD-3-Clause
#include <cpp/torch_kernel.h>

#include <cpp/private_member.h>

#include <link.h>

#include <cstdint>
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

/// A place in code, and the path of the library that has it.
struct Place {
  std::uintptr_t address;
  std::string_view library;
};

/// For dl_iterate_phdr: 1, which ends that, if the place is in this library.
int find_place(dl_phdr_info* library, std::size_t, void* data) {
  auto& place = *static_cast<Place*>(data);
  for (std::size_t i = 0; i < library->dlpi_phnum; ++i) {
    const auto& segment = library->dlpi_phdr[i];
    // What lies before the segment becomes a large number here.
    if (segment.p_type == PT_LOAD &&
        place.address - (library->dlpi_addr + segment.p_vaddr) <
            segment.p_memsz) {
      place.library = library->dlpi_name;
      return 1;
    }
  }
  return 0;
}

/// Whether code belongs to one of torch's own libraries, none of which adds
/// operators to another's. Not by dladdr, which reads all names of the library.
bool is_torchs(void* code) {
  Place place{reinterpret_cast<std::uintptr_t>(code), {}};
  if (code == nullptr || dl_iterate_phdr(find_place, &place) == 0) {
    return false;
  }
  const std::string_view path = place.library;
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
