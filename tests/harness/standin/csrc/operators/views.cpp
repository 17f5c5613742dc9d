// SPDX-License-Identifier: BSD-3-Clause
// Creating tensors, and views of them: what needs no kernel.
#include <operators/views.h>

#include <device/current.h>
#include <device/memory.h>

#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <array>

namespace standin {

namespace {

using at::Tensor;
using c10::DispatchKey;
using c10::DispatchKeySet;

const DispatchKeySet kKeys(DispatchKey::PrivateUse1);

c10::Device device_or_current(std::optional<c10::Device> device) {
  return {kType, index_of(device.value_or(kType))};
}

Tensor empty(
    c10::IntArrayRef size,
    std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout>,
    std::optional<c10::Device> device,
    std::optional<bool>,
    std::optional<c10::MemoryFormat> format) {
  const c10::DeviceGuard guard(device_or_current(device));
  return at::detail::empty_generic(
      size, &device_memory(), kKeys, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided_of(
    c10::IntArrayRef size,
    c10::IntArrayRef stride,
    std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout>,
    std::optional<c10::Device> device,
    std::optional<bool>) {
  const c10::DeviceGuard guard(device_or_current(device));
  return empty_strided(size, stride, c10::dtype_or_default(dtype));
}

/// Zeros without memory, which derivatives use for what is missing.
Tensor zeros_without_memory(
    c10::IntArrayRef size,
    std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout>,
    std::optional<c10::Device> device,
    std::optional<bool>) {
  static std::array<at::native::ZeroTensorAllocator, kDevices> allocators{
      at::native::ZeroTensorAllocator(c10::Device(kType, 0)),
      at::native::ZeroTensorAllocator(c10::Device(kType, 1))};
  const c10::Device where = device_or_current(device);
  return at::detail::empty_generic(
      size,
      &allocators.at(where.index()),
      kKeys | DispatchKeySet(DispatchKey::ZeroTensor),
      c10::dtype_or_default(dtype),
      std::nullopt);
}

Tensor& set_empty(Tensor& tensor) {
  const c10::DeviceGuard guard(tensor.device());
  const c10::Storage none(
      c10::Storage::use_byte_size_t(), 0, &device_memory(), true);
  return tensor.set_(none, 0, {0}, {});
}

const Tensor& resize(
    const Tensor& tensor,
    c10::IntArrayRef size,
    std::optional<c10::MemoryFormat> format) {
  const auto contiguous = c10::contiguous_strides(size);
  const auto bytes = at::detail::computeStorageNbytesContiguous(
      size, tensor.dtype().itemsize(), tensor.storage_offset());
  if (tensor.numel() != 0 || c10::multiply_integers(size) != 0) {
    if (bytes > tensor.storage().nbytes()) {
      at::detail::getPrivateUse1Hooks().resizePrivateUse1Bytes(
          tensor.storage(), bytes);
    }
  }
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(size, contiguous);
  if (format.has_value()) {
    impl->empty_tensor_restride(*format);
  }
  return tensor;
}

void record_stream(Tensor& tensor, c10::Stream stream) {
  record_use(tensor.storage().data_ptr(), stream_of(stream));
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided_of);
  library.impl("_efficientzerotensor", &zeros_without_memory);
  library.impl("resize_", &resize);
  library.impl("record_stream", &record_stream);
  library.impl("as_strided", &at::native::as_strided_tensorimpl);
  library.impl("view", &at::native::view);
  library.impl("_reshape_alias", &at::native::_reshape_alias);
  library.impl("unfold", &at::native::unfold);
  library.impl("view_as_real", &at::native::view_as_real);
  library.impl("view_as_complex", &at::native::view_as_complex);
  library.impl("set_", &set_empty);
  library.impl(
      "set_.source_Storage",
      static_cast<Tensor& (*)(Tensor&, at::Storage)>(&at::native::set_));
  library.impl(
      "set_.source_Storage_storage_offset", &at::native::set_storage_cpu_);
  library.impl("set_.source_Tensor", &at::native::set_tensor_);
}

} // namespace

Tensor cpu_view(const Tensor& tensor) {
  auto* memory = const_cast<void*>(tensor.const_data_ptr()); // NOLINT
  Tensor view = at::from_blob(
      memory,
      tensor.sizes(),
      tensor.strides(),
      at::TensorOptions(at::kCPU).dtype(tensor.dtype()));
  view._set_conj(tensor.is_conj());
  view._set_neg(tensor.is_neg());
  return view;
}

Tensor empty_strided(
    at::IntArrayRef size,
    at::IntArrayRef stride,
    c10::ScalarType dtype) {
  return at::detail::empty_strided_generic(
      size, stride, &device_memory(), kKeys, dtype);
}

} // namespace standin
