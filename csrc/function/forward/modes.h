// SPDX-License-Identifier: BSD-3-Clause
// The transforms of torch.func, as far as a call has to know of them.
#pragma once

namespace torch_ext {

/// Whether a transform is active on this thread:
/// torch._C._are_functorch_transforms_active() without the call.
bool functorch_active();

/// Throws torch's internal error if there is a transform on the stack that
/// allows no custom Functions of a single level.
void check_single_level_allowed();

} // namespace torch_ext
