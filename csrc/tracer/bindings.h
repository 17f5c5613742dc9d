// SPDX-License-Identifier: BSD-3-Clause
// What Python can call of the tracer.
#pragma once

#include <torch/csrc/python_headers.h>

namespace torch_ext {

/// Adds the tracer's functions to `module`. Throws.
void add_tracer_methods(PyObject* module);

} // namespace torch_ext
