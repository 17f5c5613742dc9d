// SPDX-License-Identifier: BSD-3-Clause
// Tensors that are made of others.
#include <operators/layouts.h>

#include <device/current.h>
#include <operators/fallback.h>
#include <operators/views.h>

#include <ATen/NestedTensorImpl.h>
#include <ATen/SparseCsrTensorUtils.h>
#include <ATen/ops/_coalesced_native.h>
#include <ATen/ops/_indices_native.h>
#include <ATen/ops/_nested_tensor_size_native.h>
#include <ATen/ops/_nested_tensor_storage_offsets_native.h>
#include <ATen/ops/_nested_tensor_strides_native.h>
#include <ATen/ops/_nested_view_from_buffer_native.h>
#include <ATen/ops/_nnz_native.h>
#include <ATen/ops/_sparse_compressed_tensor_unsafe.h>
#include <ATen/ops/_sparse_coo_tensor_unsafe.h>
#include <ATen/ops/_sparse_coo_tensor_with_dims_and_tensors_native.h>
#include <ATen/ops/_sparse_coo_tensor_with_dims_native.h>
#include <ATen/ops/_values_native.h>
#include <ATen/ops/alias_native.h>
#include <ATen/ops/clone_native.h>
#include <ATen/ops/copy_native.h>
#include <ATen/ops/dense_dim_native.h>
#include <ATen/ops/detach_native.h>
#include <ATen/ops/empty_native.h>
#include <ATen/ops/indices_native.h>
#include <ATen/ops/is_coalesced_native.h>
#include <ATen/ops/quantize_per_tensor.h>
#include <ATen/ops/sparse_dim_native.h>
#include <ATen/ops/sparse_resize_native.h>
#include <ATen/ops/unbind_native.h>
#include <ATen/ops/values_native.h>
#include <ATen/quantized/QTensorImpl.h>
#include <ATen/quantized/Quantizer.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

namespace standin {

namespace {

using at::Tensor;

bool is_compressed(const Tensor& tensor) {
  return at::sparse_csr::is_sparse_compressed(tensor);
}

/// The same tensor, made of what `change` returns for its parts.
template <typename Change>
Tensor with_parts(const Tensor& tensor, const Change& change) {
  if (tensor.is_sparse()) {
    const Tensor values = change(tensor._values());
    return at::_sparse_coo_tensor_unsafe(
        change(tensor._indices()),
        values,
        tensor.sizes(),
        tensor.options().device(values.device()),
        tensor.is_coalesced());
  }
  if (is_compressed(tensor)) {
    const auto* impl = at::sparse_csr::get_sparse_csr_impl(tensor);
    const Tensor values = change(impl->values());
    return at::_sparse_compressed_tensor_unsafe(
        change(impl->compressed_indices()),
        change(impl->plain_indices()),
        values,
        tensor.sizes(),
        tensor.options().device(values.device()));
  }
  const auto* impl = at::native::get_nested_tensor_impl(tensor);
  return at::detail::make_tensor<at::native::NestedTensorImpl>(
      change(impl->get_unsafe_storage_as_tensor()),
      impl->get_nested_sizes(),
      impl->get_nested_strides(),
      impl->get_storage_offsets());
}

/// With values that somebody else writes.
Tensor quantized_like(const Tensor& tensor, c10::Device device) {
  return at::new_qtensor(
      tensor.sizes(),
      tensor.options().device(device),
      at::get_qtensorimpl(tensor)->quantizer());
}

/// A quantized tensor's bytes.
Tensor bytes(const Tensor& quantized) {
  return at::from_blob(
      quantized.data_ptr(),
      {static_cast<int64_t>(quantized.nbytes())},
      at::TensorOptions(at::kByte));
}

Tensor nested_view(
    const Tensor& buffer,
    const Tensor& sizes,
    const Tensor& strides,
    const Tensor& offsets) {
  return at::native::_nested_view_from_buffer(buffer, sizes, strides, offsets);
}

std::vector<Tensor> nested_unbind(const Tensor& tensor, int64_t dimension) {
  return at::native::NestedTensor_unbind(tensor, dimension);
}

// The fallback's way doesn't do: without values it gives a dense tensor.
Tensor quantize(
    const Tensor& tensor,
    double scale,
    int64_t zero_point,
    c10::ScalarType dtype) {
  const c10::DeviceGuard guard(tensor.device());
  wait_for_values(tensor.device().index());
  const BelowAutograd below;
  return to_device(
      at::quantize_per_tensor(cpu_view(tensor), scale, zero_point, dtype));
}

// The parts themselves: torch's functions for these do for any device.

TORCH_LIBRARY_IMPL(aten, SparsePrivateUse1, library) {
  namespace native = at::native;
  library.impl("empty.memory_format", &native::empty_sparse);
  library.impl(
      "_sparse_coo_tensor_with_dims_and_tensors",
      TORCH_FN(native::new_with_dims_and_tensor_sparse_symint));
  library.impl("_sparse_coo_tensor_with_dims", &native::new_with_dims_sparse);
  library.impl("_indices", &native::_indices_sparse);
  library.impl("_values", &native::_values_sparse);
  library.impl("indices", &native::indices_sparse);
  library.impl("values", &native::values_sparse);
  library.impl("_nnz", &native::_nnz_sparse);
  library.impl("sparse_dim", &native::sparse_dim_sparse);
  library.impl("dense_dim", &native::dense_dim_sparse);
  library.impl("is_coalesced", &native::is_coalesced_sparse);
  library.impl("_coalesced_", &native::_coalesced_sparse_);
  library.impl("sparse_resize_", &native::sparse_resize_);
  library.impl("copy_sparse_to_sparse_", &native::copy_sparse_);
  library.impl("copy_", &native::copy_sparse_wrapper_);
  library.impl("clone", &native::clone_sparse);
}

TORCH_LIBRARY_IMPL(aten, NestedTensorPrivateUse1, library) {
  namespace native = at::native;
  library.impl("_nested_tensor_size", &native::_nested_tensor_size);
  library.impl("_nested_tensor_strides", &native::_nested_tensor_strides);
  library.impl(
      "_nested_tensor_storage_offsets",
      &native::_nested_tensor_storage_offsets);
  library.impl("values", &native::values_nested);
  library.impl("detach", &native::detach);
  library.impl("alias", &native::alias);
  library.impl("unbind.int", &nested_unbind);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("_nested_view_from_buffer", &nested_view);
  library.impl("quantize_per_tensor", &quantize);
}

TORCH_LIBRARY_IMPL(_, SparsePrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(_, SparseCsrPrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(_, NestedTensorPrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(_, QuantizedPrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

} // namespace

bool has_parts(const Tensor& tensor) {
  return tensor.defined() &&
      (tensor.layout() != c10::kStrided || tensor.is_nested() ||
       tensor.is_quantized());
}

Tensor host_view(const Tensor& tensor) {
  if (!tensor.defined() || tensor.is_cpu()) {
    return tensor;
  }
  if (!has_parts(tensor)) {
    return cpu_view(tensor);
  }
  if (tensor.is_quantized()) {
    const Tensor copy = quantized_like(tensor, at::kCPU);
    bytes(copy).copy_(bytes(tensor));
    return copy;
  }
  return with_parts(tensor, &host_view);
}

Tensor to_device(const Tensor& tensor) {
  if (!tensor.defined() || is_standin(tensor)) {
    return tensor;
  }
  if (tensor.is_quantized()) {
    const Tensor result = quantized_like(tensor, {kType, current_device()});
    current(current_device())
        .launch([target = bytes(result), source = bytes(tensor).clone()] {
          target.copy_(source);
        });
    return result;
  }
  if (has_parts(tensor)) {
    return with_parts(tensor, &to_device);
  }
  const Tensor result =
      empty_strided(tensor.sizes(), tensor.strides(), tensor.scalar_type());
  result.copy_(tensor);
  return result;
}

} // namespace standin
