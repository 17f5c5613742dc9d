// Function.apply: a custom Function's forward call.
#pragma once

#include <torch/csrc/python_headers.h>

namespace torch_ext {

/// Calls the Function class args[0] on the other arguments, in the vectorcall
/// convention. A new reference, or null with an exception set.
PyObject* apply(
    PyObject* const* args,
    Py_ssize_t count,
    PyObject* keywords);

} // namespace torch_ext
