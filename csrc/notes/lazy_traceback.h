// SPDX-License-Identifier: BSD-3-Clause
// A Python stack that is captured as code positions and made into text when it
// is read.
#pragma once

#include <python/ref.h>

#include <cstddef>
#include <cstdint>

namespace torch_ext {

/// So many calls reach from an operator, through torch's Python code, to the
/// user's line.
constexpr std::size_t kShortStack = 24;

/// The stack of the current thread as a torch_ext._C.LazyTraceback, which reads
/// as the list of strings that traceback.format_stack() returns. It keeps code
/// objects alive and nothing else: no frames, locals, tensors or modules.
/// It has the innermost `most` calls. Throws if there is no memory.
Ref capture_traceback(std::size_t most = SIZE_MAX);

/// Once, at import: makes the type ready. Throws.
void init_lazy_traceback();

extern PyTypeObject LazyTracebackType;

} // namespace torch_ext
