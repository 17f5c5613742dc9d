// SPDX-License-Identifier: BSD-3-Clause
// A Python stack that is captured as code positions and made into text when it
// is read.
#pragma once

#include <python/ref.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace torch_ext {

/// So many calls reach from an operator, through torch's Python code, to the
/// user's line.
constexpr std::size_t kShortStack = 24;

/// A position in a piece of code.
struct Position {
  Ref code;
  int instruction; // byte offset

  PyCodeObject* code_object() const {
    return reinterpret_cast<PyCodeObject*>(code.get());
  }
};

/// Positions of the calls on a stack, innermost first. Ends with the GIL held.
using Positions = std::vector<Position>;

/// Those of the innermost `most` calls on this thread.
Positions capture_positions(std::size_t most = SIZE_MAX);

/// Makes a list of them, as capture_traceback() does.
Ref to_traceback(const Positions& positions);

/// The stack of the current thread as a torch_ext._C.LazyTraceback, which reads
/// as the list of strings that traceback.format_stack() returns. It keeps code
/// objects alive and nothing else: no frames, locals, tensors or modules.
/// Throws if there is no memory.
Ref capture_traceback();

/// Once, at import: makes the type ready. Throws.
void init_lazy_traceback();

extern PyTypeObject LazyTracebackType;

} // namespace torch_ext
