// SPDX-License-Identifier: BSD-3-Clause
// A Python stack that is captured as code positions and made into text when it
// is read.
#pragma once

#include <python/ref.h>

namespace torch_ext {

/// The stack of the current thread as a torch_ext._C.LazyTraceback, which reads
/// as the list of strings that traceback.format_stack() returns. It keeps code
/// objects alive and nothing else: no frames, locals, tensors or modules.
/// Throws if there is no memory.
Ref capture_traceback();

/// Once, at import: makes the type ready. Throws.
void init_lazy_traceback();

extern PyTypeObject LazyTracebackType;

} // namespace torch_ext
