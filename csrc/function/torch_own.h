// SPDX-License-Identifier: BSD-3-Clause
// What torch itself has, looked up once.
#pragma once

#include <python/immortal.h>

namespace torch_ext {

/// torch's own objects as they were when torch_ext was imported. torch_ext does
/// what they do while they stand unchanged, and calls whatever stands in their
/// place otherwise.
struct TorchOwn {
  /// torch.autograd.Function: torch's class, whatever that name means now.
  Immortal function;
  /// Its apply as it stands in the class.
  Immortal apply_in_class;
  /// What takes the class as its first argument in Function.apply.
  Immortal apply;
  /// The setup_context of a class that doesn't override it.
  Immortal setup_context;
  /// The apply of a grad_fn: BackwardCFunction.apply.
  Immortal backward_apply;
  /// BackwardCFunction._get_user_fn; null before torch 2.13, when apply itself
  /// looks for backward and boxes nothing.
  Immortal get_user_fn;
  /// Tensor.view_as.
  Immortal view_as;
  /// Whether torch's Functions have boxed_grads_call.
  bool boxes_grads = false;
};

extern TorchOwn torch_own;

/// Once, at import. Throws what the lookups raise, and ImportError if another's
/// apply hides torch's own.
void init_torch_own();

} // namespace torch_ext
