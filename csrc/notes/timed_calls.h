// SPDX-License-Identifier: BSD-3-Clause
// How long calls of Functions take, and how much of it is the user's own code.
#pragma once

#include <torch/csrc/python_headers.h>

#include <atomic>
#include <chrono>
#include <cstdint>

namespace torch_ext {

/// Whether somebody times calls.
inline std::atomic<bool> calls_are_timed = false;

/// A call of a Function, forward or backward, from its construction on. Costs a
/// look at a flag if nobody times calls. Needs the GIL. A call that fails, and
/// so isn't ended, is not counted.
class TimedCall {
 public:
  using Clock = std::chrono::steady_clock;

  TimedCall() : on_(calls_are_timed.load(std::memory_order_relaxed)) {
    if (on_) {
      start_ = Clock::now();
    }
  }

  explicit operator bool() const {
    return on_;
  }

  /// While it lives the user's code runs.
  class UserCode {
   public:
    explicit UserCode(TimedCall& call) : call_(call) {
      if (call_) {
        start_ = Clock::now();
      }
    }
    ~UserCode() {
      if (call_) {
        call_.user_ += Clock::now() - start_;
      }
    }
    UserCode(const UserCode&) = delete;
    UserCode& operator=(const UserCode&) = delete;

   private:
    TimedCall& call_;
    Clock::time_point start_;
  };

  /// Notes what is saved for backward: tensors and None.
  void note_saved(PyObject* const* begin, PyObject* const* end);

  /// Ends a call of forward, which got these arguments and returned `result`.
  void end_forward(
      PyObject* cls,
      PyObject* const* args,
      Py_ssize_t count,
      PyObject* result);

  /// Ends a call of the backward of `grad_fn`.
  void end_backward(PyObject* grad_fn);

 private:
  bool on_;
  bool recorded_ = false; // whether there is a node that can run
  std::int64_t tensors_saved_ = 0;
  std::int64_t bytes_saved_ = 0;
  Clock::time_point start_;
  Clock::duration user_{};
};

/// start_timing(on_call): see _C.pyi.
PyObject* py_start_timing(PyObject* module, PyObject* on_call);

/// timed_calls(number): see _C.pyi.
PyObject* py_timed_calls(PyObject* module, PyObject* number);

/// stop_timing(number): see _C.pyi.
PyObject* py_stop_timing(PyObject* module, PyObject* number);

} // namespace torch_ext
