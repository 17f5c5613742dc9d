// SPDX-License-Identifier: BSD-3-Clause
// A Python stack that is captured as code positions and made into text when it
// is read.
#pragma once

#include <notes/stack.h>
#include <python/ref.h>

#include <atomic>

namespace torch_ext {

/// A list whose items are made on first use: torch_ext._C.LazyTraceback, which
/// reads as the list of strings that traceback.format_stack() returns.
///
/// Invariant: no Python code sees the list before its items are made. All ways
/// to the items go through a slot or an attribute of the type, and each of
/// these makes them first; CPython's shortcuts past the slots are for exact
/// lists only.
struct LazyTraceback {
  PyListObject list;
  Stack stack;
  // While nobody uses it: metadata_dict.cpp.
  PyObject* dict;
  LazyTraceback* next;
  bool filled;

  bool is_filled() {
    return std::atomic_ref<bool>(filled).load(std::memory_order_acquire);
  }
  void set_filled() {
    std::atomic_ref<bool>(filled).store(true, std::memory_order_release);
  }
};

inline LazyTraceback* as_lazy(PyObject* object) {
  return reinterpret_cast<LazyTraceback*>(object);
}

/// A new one. Throws if there is no memory.
Ref to_traceback(Stack stack);

/// Once, at import: makes the type ready. Throws.
void init_lazy_traceback();

extern PyTypeObject LazyTracebackType;

} // namespace torch_ext
