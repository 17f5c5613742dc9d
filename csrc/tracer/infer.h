// Python values as TorchScript's.
#pragma once

#include <ATen/core/ivalue.h>
#include <torch/csrc/utils/pybind.h>

namespace torch_ext {

/// The value as TorchScript has it, its type found as the tracer finds it.
/// Throws RuntimeError, in torch's words, where it has none. Needs the GIL.
c10::IValue inferred_value(py::handle object);

} // namespace torch_ext
