// SPDX-License-Identifier: BSD-3-Clause
// Python values as TorchScript's.
//
// torch has two ways to find the type of a value, which disagree (a dtype is an
// int to the one, and nothing to the other): one for its tracer, and one for
// what its profiler shows.
#pragma once

#include <ATen/core/ivalue.h>
#include <torch/csrc/utils/pybind.h>

#include <optional>

namespace torch_ext {

/// The value as torch's tracer sees it. Throws torch's RuntimeError if it has
/// no type. Needs the GIL.
c10::IValue inferred_value(py::handle object);

/// The value as torch's profiler sees it, if it is None, a number, or a
/// container of those that is no empty list or dict and whose items have a
/// common type. Needs the GIL.
std::optional<c10::IValue> simple_value(PyObject* object);

} // namespace torch_ext
