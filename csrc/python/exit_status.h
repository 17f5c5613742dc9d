// SPDX-License-Identifier: BSD-3-Clause
// The status that the process ends with.
#pragma once

#include <torch/csrc/python_headers.h>

namespace torch_ext {

/// fail_at_exit(status): lets the process end with `status`, an int, if it
/// would end with 0. Python itself can't: its code doesn't learn what
/// sys.exit() was called with, and after it is only C's.
PyObject* py_fail_at_exit(PyObject* module, PyObject* status);

} // namespace torch_ext
