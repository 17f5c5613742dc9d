// SPDX-License-Identifier: BSD-3-Clause
// Whether an operator runs torch's own kernel. Who does directly what a kernel
// does asks that first: anybody may have put another in its place.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/record_function.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <array>
#include <cstddef>

namespace torch_ext {

/// The keys of plain tensors on a CPU.
constexpr c10::DispatchKeySet kCpuKeys(
    {c10::DispatchKey::CPU,
     c10::DispatchKey::AutogradCPU,
     c10::DispatchKey::ADInplaceOrView});

/// A kernel's place in an operator's table, whatever is put there later, and
/// the function that torch has there.
class TorchKernel {
 public:
  TorchKernel() = default;
  /// The one that `op` runs for `keys`. Throws if there is none.
  TorchKernel(const c10::OperatorHandle& op, c10::DispatchKeySet keys);

  /// Whether torch's function is still there.
  bool is_torchs_own() const {
    return function_ != nullptr && current() == function_;
  }

 private:
  /// The C++ function that is there now; null if it is Python's.
  void* current() const {
    return *symbolic_ != nullptr ? *symbolic_ : *unboxed_;
  }

  // In the table, which lives as long as the process.
  void* const* symbolic_ = nullptr;
  void* const* unboxed_ = nullptr;
  void* function_ = nullptr;
};

/// Whether that holds for each of several.
template <std::size_t count>
bool are_torchs_own(const std::array<TorchKernel, count>& kernels) {
  return std::all_of(
      kernels.begin(), kernels.end(), [](const TorchKernel& kernel) {
        return kernel.is_torchs_own();
      });
}

/// Whether operators of this thread go straight to the kernels, but for
/// `others`: no mode, no transform, no tracer and nobody who watches.
inline bool dispatches_plainly(c10::DispatchKeySet others = {}) {
  const c10::impl::LocalDispatchKeySet local =
      c10::impl::tls_local_dispatch_key_set();
  return local.included_ - others == c10::default_included_set &&
      local.excluded_ == c10::default_excluded_set &&
      !at::getStepCallbacksUnlessEmpty(at::RecordScope::FUNCTION);
}

} // namespace torch_ext
