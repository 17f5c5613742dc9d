// SPDX-License-Identifier: BSD-3-Clause
// Whether the numbers in a tensor are finite.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/python_headers.h>

namespace torch_ext {

/// Whether a tensor is of a kind whose numbers can be wrong, and can be read
/// without running code of a subclass, a mode or a transform of torch.func.
bool has_numbers(const at::Tensor& tensor);

/// The numbers that a tensor stores: of a sparse one those without zeros.
at::Tensor stored_numbers(const at::Tensor& tensor);

/// What is wrong with a tensor that has numbers, in the engine's words: "nan";
/// "infinite", if that counts and none is NaN; null if nothing is. Waits for
/// the tensor's device.
const char* fault_of(const at::Tensor& tensor, bool infinities_count);

/// Whether a tensor's numbers lie in the memory of the CPU, one after another:
/// fault_of() is quick then.
bool is_scanned_in_memory(const at::Tensor& tensor);

/// has_numbers(tensor): as above.
PyObject* py_has_numbers(PyObject* module, PyObject* tensor);

} // namespace torch_ext
