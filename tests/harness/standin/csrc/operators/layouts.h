// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

namespace standin {

/// Whether the tensor is more than strides over memory: sparse, nested or
/// quantized. Operators on these wait, and run on the host.
bool has_parts(const at::Tensor& tensor);

/// A CPU tensor of the same layout, with the same values. Its memory is the
/// same, which it doesn't own, unless it is quantized.
at::Tensor host_view(const at::Tensor& tensor);

/// A copy of a CPU tensor, of any layout, on the current device.
at::Tensor to_device(const at::Tensor& tensor);

} // namespace standin
