// SPDX-License-Identifier: BSD-3-Clause
// The view of itself that an input becomes if forward returns it as it is.
#pragma once

#include <torch/csrc/python_headers.h>

#include <ATen/core/Tensor.h>

namespace torch_ext {

/// A view of the whole tensor, made as if by forward, so that it can have a
/// grad_fn of its own. Throws what a view_as in Python raises, and TypeError if
/// that returns no tensor.
at::Tensor view_as_self(PyObject* object);

/// The same by a call of the tensor's view_as in Python, in the caller's grad
/// mode.
at::Tensor view_as_self_by_python(const at::Tensor& tensor);

/// Once, at import: notes which kernels torch has for views. Throws.
void init_self_views();

} // namespace torch_ext
