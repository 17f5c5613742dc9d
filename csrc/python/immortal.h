// SPDX-License-Identifier: BSD-3-Clause
// Python objects that live as long as the process.
#pragma once

#include <python/ref.h>

namespace torch_ext {

/// A global that owns a Python object. Set at import, or by a function that
/// says so, with the GIL held; after that any thread may read it.
///
/// The object is never released: C++ globals are destroyed after Python is
/// gone. It is set at import and not on first use because a function-local
/// static that runs Python code can deadlock: its guard waits with the GIL
/// held.
class Immortal {
 public:
  constexpr Immortal() = default;
  Immortal(const Immortal&) = delete;
  Immortal& operator=(const Immortal&) = delete;

  /// Takes over `object`, and releases what it had before.
  void set(Ref object) {
    Ref old = Ref::steal(std::exchange(object_, object.release()));
  }

  /// Borrowed; null before set().
  operator PyObject*() const {
    return object_;
  }
  PyObject* get() const {
    return object_;
  }
  PyTypeObject* as_type() const {
    return reinterpret_cast<PyTypeObject*>(object_);
  }

 private:
  PyObject* object_ = nullptr;
};

} // namespace torch_ext
