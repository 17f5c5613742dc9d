// SPDX-License-Identifier: BSD-3-Clause
// Whether the numbers in a tensor are finite.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/csrc/python_headers.h>

namespace torch_ext {

/// Looking adds nothing to the graph, and calls no subclass of Tensor or mode.
struct Aside {
  torch::autograd::AutoGradMode no_grad{false};
  c10::impl::ExcludeDispatchKeyGuard no_python{c10::DispatchKeySet(
      {c10::DispatchKey::Python, c10::DispatchKey::PythonTLSSnapshot})};
};

/// Whether a tensor stands for something else, and has no memory to be read: a
/// subclass that wraps tensors, or one of a transform of torch.func.
bool is_wrapper(const at::Tensor& tensor);

/// Whether a tensor is of a kind whose numbers can be wrong, and can be read
/// without running code of a subclass, a mode or a transform of torch.func.
bool has_numbers(const at::Tensor& tensor);

/// Whether the memory of a dense tensor holds all its values: those of a
/// parameter that is sharded may be away, and a wrapper has none.
bool is_in_memory(const at::Tensor& dense);

/// Whether operators can read a tensor's values while no code of a subclass, a
/// mode or a transform of torch.func runs. Nothing else can tell: without memory
/// they would read what lies at no address, or at somebody else's.
bool can_be_read(const at::Tensor& tensor);

/// The numbers that a tensor stores: of a sparse one those without zeros.
at::Tensor stored_numbers(const at::Tensor& tensor);

/// What is wrong with a tensor that has numbers, in the engine's words: "nan";
/// "infinite", if that counts and none is NaN; null if nothing is. Waits for
/// the tensor's device.
const char* fault_of(const at::Tensor& tensor, bool infinities_count);

/// Whether a tensor's numbers lie in the memory of the CPU, one after another:
/// fault_of() is quick then.
bool is_scanned_in_memory(const at::Tensor& tensor);

/// can_be_read(tensor): as above.
PyObject* py_can_be_read(PyObject* module, PyObject* tensor);

/// has_numbers(tensor): as above.
PyObject* py_has_numbers(PyObject* module, PyObject* tensor);

} // namespace torch_ext
