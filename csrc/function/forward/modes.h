// Modes of the current thread that decide which way a call takes.
#pragma once

namespace torch_ext {

/// Whether a torch.func transform is at work on this thread:
/// torch._C._are_functorch_transforms_active() without the call.
bool functorch_active();

/// Raises torch's internal error where a transform is on the stack and custom
/// Functions of one level are not allowed under it.
void check_single_level_allowed();

/// Whether torch.jit.trace is recording on this thread.
bool tracing();

} // namespace torch_ext
