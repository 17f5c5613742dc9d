// SPDX-License-Identifier: BSD-3-Clause
// A Python stack that is captured as code positions and made into text when it
// is read.
#pragma once

#include <python/ref.h>

#include <memory>

namespace torch_ext {

struct StackFrame;

/// A stack by its innermost call; null if there was none. The last one to let
/// go of it holds the GIL.
using Stack = std::shared_ptr<StackFrame>;

/// A call on a stack, and where it stands in its code. Stacks that a thread
/// notes one after the other share the outer calls that are the same.
struct StackFrame {
  StackFrame(Ref code, int instruction, Stack outer);
  StackFrame(const StackFrame&) = delete;
  StackFrame& operator=(const StackFrame&) = delete;
  ~StackFrame();

  PyCodeObject* code_object() const {
    return reinterpret_cast<PyCodeObject*>(code.get());
  }

  Ref code;
  int instruction; // byte offset
  int depth; // 1 for the outermost
  Stack outer;
  /// The list that share_traceback() has made of the stack that ends here,
  /// borrowed; null if there is none.
  PyObject* list = nullptr;
};

/// That of the current thread. Throws if there is no memory.
Stack capture_stack();

/// Makes a list of it, as capture_traceback() does.
Ref to_traceback(Stack stack);

/// The stack of the current thread as a torch_ext._C.LazyTraceback, which reads
/// as the list of strings that traceback.format_stack() returns. It keeps code
/// objects alive and nothing else: no frames, locals, tensors or modules.
/// Throws if there is no memory.
Ref capture_traceback();

/// The same list for all that ask within one call of Python's, such as an
/// operator and the nodes it leads to; where Python has no GIL, one each.
Ref share_traceback();

/// Once, at import: makes the type ready. Throws.
void init_lazy_traceback();

extern PyTypeObject LazyTracebackType;

} // namespace torch_ext
