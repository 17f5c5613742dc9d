// The GIL, for code that the engine calls with or without it.
#pragma once

#include <torch/csrc/python_headers.h>

namespace torch_ext {

/// Holds the GIL while it lives. Costs next to nothing on a thread that has it
/// already, and makes a thread state on a thread that Python did not start.
class Gil {
 public:
  Gil() : taken_(PyGILState_Check() == 0) {
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

/// Lets go of the GIL while it lives; the thread must hold it.
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

} // namespace torch_ext
