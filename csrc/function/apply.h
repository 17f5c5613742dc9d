// Function.apply: a custom Function's forward call.
#pragma once

#include <torch/csrc/python_headers.h>

namespace torch_ext {

/// apply(cls, *args, **kwargs), in the vectorcall convention; what a
/// classmethod wraps. A new reference, or null with an exception set.
PyObject* apply(
    PyObject* module,
    PyObject* const* args,
    Py_ssize_t count,
    PyObject* keywords);

/// Once, at import: keeps torch's own apply, for the calls that are its to
/// handle. False with an exception set.
bool init_apply();

} // namespace torch_ext
