// SPDX-License-Identifier: BSD-3-Clause
// Entries of a PyMethodDef.
#pragma once

#include <torch/csrc/python_headers.h>

namespace torch_ext {

/// A function of more arguments than a PyCFunction, as its flags declare it.
template <typename Function>
PyCFunction as_method(Function function) noexcept {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

} // namespace torch_ext
