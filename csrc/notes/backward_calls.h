// SPDX-License-Identifier: BSD-3-Clause
// The backwards that were called while nodes were noting: where, and what each
// of them freed.
#pragma once

#include <torch/csrc/python_headers.h>

#include <ATen/record_function.h>

#include <cstddef>
#include <cstdint>
#include <optional>

namespace torch_ext {

/// How many have begun in this process.
std::uint32_t backwards_begun();

/// Around a backward: counts it and notes where it is called. While it lives,
/// each node that it frees notes that. Does nothing outside anomaly mode.
class BackwardCall {
 public:
  BackwardCall();
  ~BackwardCall();
  BackwardCall(const BackwardCall&) = delete;
  BackwardCall& operator=(const BackwardCall&) = delete;

 private:
  // Of the places of those that run now; none if the mode is off or there are
  // too many, and then what this one frees is not noted.
  std::optional<std::size_t> place_;
  // The place of the backward that this one runs in, whose callback rests.
  std::optional<std::size_t> outer_;
  at::CallbackHandle callback_ = at::INVALID_CALLBACK_HANDLE;
};

/// backwards(): how many have begun.
PyObject* py_backwards(PyObject* module, PyObject* unused);

/// backward_call(number): the stack of the call, as a LazyTraceback; None if it
/// is not known any more.
PyObject* py_backward_call(PyObject* module, PyObject* number);

} // namespace torch_ext
