// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

namespace standin {

/// A CPU tensor over the same memory, which it doesn't own.
at::Tensor cpu_view(const at::Tensor& tensor);

inline bool is_standin(const at::Tensor& tensor) {
  return tensor.defined() &&
      tensor.device().type() == c10::DeviceType::PrivateUse1;
}

/// A dense tensor on the current device.
at::Tensor empty_strided(
    at::IntArrayRef size,
    at::IntArrayRef stride,
    c10::ScalarType dtype);

} // namespace standin
