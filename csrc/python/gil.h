// SPDX-License-Identifier: BSD-3-Clause
// The GIL, for code that the engine calls with or without it.
#pragma once

#include <python/ref.h>

#include <torch/csrc/utils/pythoncapi_compat.h>

#include <optional>

namespace torch_ext {

/// Whether this thread holds the GIL. Not by PyGILState_Check(), which answers
/// yes to everybody once there has been a sub-interpreter.
inline bool has_gil() {
  PyThreadState* current = PyThreadState_GetUnchecked();
  // Up to Python 3.11 `current` is that of whichever thread holds the GIL.
  return current != nullptr && current == PyGILState_GetThisThreadState();
}

/// Holds the GIL while it lives. Costs next to nothing on a thread that has it
/// already, and makes a thread state on a thread that Python did not start.
class Gil {
 public:
  Gil() : taken_(!has_gil()) {
    if (taken_) {
      state_ = PyGILState_Ensure();
    }
  }
  ~Gil() {
    if (taken_) {
      PyGILState_Release(state_);
    }
  }
  Gil(const Gil&) = delete;
  Gil& operator=(const Gil&) = delete;

 private:
  bool taken_;
  PyGILState_STATE state_ = PyGILState_LOCKED;
};

/// Releases the GIL while it lives; the thread must hold it.
class NoGil {
 public:
  NoGil() : state_(PyEval_SaveThread()) {}
  ~NoGil() {
    PyEval_RestoreThread(state_);
  }
  NoGil(const NoGil&) = delete;
  NoGil& operator=(const NoGil&) = delete;

 private:
  PyThreadState* state_;
};

/// Holds the GIL while it lives, if Python still lives; false otherwise. For
/// destructors, which may run on any thread and after Python's end: there is
/// nothing to release then, and objects are left where they are.
class GilIfPythonLives {
 public:
  GilIfPythonLives() {
    if (Py_IsInitialized() != 0) {
      gil_.emplace();
    }
  }
  explicit operator bool() const {
    return gil_.has_value();
  }

 private:
  std::optional<Gil> gil_;
};

/// Owns a reference that may be dropped on any thread, with or without the GIL,
/// and after Python's end.
class ThreadFreeRef {
 public:
  explicit ThreadFreeRef(Ref object) : object_(std::move(object)) {}
  ~ThreadFreeRef() {
    if (const GilIfPythonLives gil; gil) {
      Ref dropped = std::move(object_);
    } else {
      object_.release();
    }
  }
  ThreadFreeRef(const ThreadFreeRef&) = delete;
  ThreadFreeRef& operator=(const ThreadFreeRef&) = delete;

  /// Borrowed.
  PyObject* get() const {
    return object_.get();
  }

 private:
  Ref object_;
};

} // namespace torch_ext
