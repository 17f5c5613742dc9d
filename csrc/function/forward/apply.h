// SPDX-License-Identifier: BSD-3-Clause
// Function.apply: a custom Function's forward call.
#pragma once

#include <torch/csrc/python_headers.h>

namespace torch_ext {

/// Calls the Function class `cls`, by the convention of METH_FASTCALL |
/// METH_KEYWORDS.
PyObject* py_apply(
    PyObject* cls,
    PyObject* const* args,
    Py_ssize_t count,
    PyObject* keywords);

} // namespace torch_ext
