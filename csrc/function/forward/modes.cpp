// SPDX-License-Identifier: BSD-3-Clause
#include <function/forward/modes.h>

#include <ATen/FuncTorchTLS.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace torch_ext {

bool functorch_active() {
  const auto included = c10::impl::tls_local_dispatch_key_set().included_;
  return included.has(c10::DispatchKey::FuncTorchDynamicLayerFrontMode) ||
      included.has(c10::DispatchKey::FuncTorchDynamicLayerBackMode);
}

void check_single_level_allowed() {
  if (const auto& functorch = at::functorch::functorchTLSAccessor()) {
    functorch->checkSupportsSingleLevelAutogradFunction();
  }
}

} // namespace torch_ext
