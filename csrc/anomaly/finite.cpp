// SPDX-License-Identifier: BSD-3-Clause
#include <anomaly/finite.h>

#include <python/error.h>
#include <python/tensor.h>

#include <ATen/ATen.h>
#include <ATen/DeviceGuard.h>
#include <ATen/EmptyTensor.h>
#include <torch/csrc/autograd/python_variable.h>

#include <cstdint>
#include <cstring>
#include <optional>

namespace torch_ext {

namespace {

/// Which of the numbers at `data` are wrong, by their bits without the sign:
/// those of infinity have the largest exponent and nothing else.
struct Wrong {
  bool nan;
  bool infinite;
};

template <typename Bits>
Wrong scan(const void* data, int64_t count, Bits infinity) {
  const Bits magnitude =
      static_cast<Bits>(~(Bits{1} << (sizeof(Bits) * 8 - 1)));
  const char* at = static_cast<const char*>(data);
  Bits nan = 0;
  Bits infinite = 0;
  for (int64_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, at + i * sizeof(Bits), sizeof(Bits));
    bits = static_cast<Bits>(bits & magnitude);
    nan = static_cast<Bits>(nan | (bits > infinity));
    infinite = static_cast<Bits>(infinite | (bits == infinity));
  }
  return {nan != 0, infinite != 0};
}

/// Without the dispatcher, whose calls cost more than small tensors; nothing if
/// the tensor is of another kind.
std::optional<Wrong> scan_memory(const at::Tensor& tensor) {
  if (!is_scanned_in_memory(tensor) || tensor._is_zerotensor()) {
    return std::nullopt;
  }
  const int64_t count = tensor.numel() * (tensor.is_complex() ? 2 : 1);
  if (count == 0) {
    return Wrong{false, false};
  }
  const void* data = tensor.storage().data();
  if (data == nullptr) {
    return std::nullopt;
  }
  data = tensor.const_data_ptr();
  switch (c10::toRealValueType(tensor.scalar_type())) {
    case at::kDouble:
      return scan<std::uint64_t>(data, count, 0x7ff0000000000000);
    case at::kFloat:
      return scan<std::uint32_t>(data, count, 0x7f800000);
    case at::kBFloat16:
      return scan<std::uint16_t>(data, count, 0x7f80);
    case at::kHalf:
      return scan<std::uint16_t>(data, count, 0x7c00);
    default:
      return std::nullopt;
  }
}

Wrong scan_by_operators(const at::Tensor& tensor, bool infinities_count) {
  const at::OptionalDeviceGuard guard(at::device_of(tensor));
  at::Tensor numbers = stored_numbers(tensor);
  if (at::isFloat8Type(numbers.scalar_type())) {
    numbers = numbers.to(at::kFloat);
  }
  if (infinities_count && at::isfinite(numbers).all().item<bool>()) {
    return {false, false};
  }
  const bool nan = at::isnan(numbers).any().item<bool>();
  return {nan, infinities_count && !nan};
}

/// Of tensors that stand for others in a transform.
constexpr c10::DispatchKeySet kTransforms{
    c10::DispatchKey::Functionalize,
    c10::DispatchKey::FuncTorchBatched,
    c10::DispatchKey::FuncTorchGradWrapper,
    c10::DispatchKey::Batched};

} // namespace

bool is_wrapper(const at::Tensor& tensor) {
  return tensor.key_set().has_any(kTransforms.add(c10::DispatchKey::Python));
}

bool has_numbers(const at::Tensor& tensor) {
  return tensor.defined() &&
      (tensor.is_floating_point() || tensor.is_complex()) &&
      !is_wrapper(tensor) && !tensor.is_meta() && !tensor.is_nested();
}

bool is_in_memory(const at::Tensor& dense) {
  const at::TensorImpl* impl = dense.unsafeGetTensorImpl();
  if (!dense.has_storage() || impl->has_symbolic_sizes_strides()) {
    return false;
  }
  c10::StorageImpl* storage = impl->unsafe_storage().unsafeGetStorageImpl();
  const auto size = storage->sym_nbytes().maybe_as_int();
  // First, since a wrapper may answer for its sizes by code of its own.
  if (!size ||
      (*size != 0 && storage->_mutable_data_ptr_no_checks().get() == nullptr)) {
    return false;
  }
  return static_cast<size_t>(*size) >= at::detail::computeStorageNbytes(
                                           dense.sizes(),
                                           dense.strides(),
                                           dense.itemsize(),
                                           dense.storage_offset());
}

bool can_be_read(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.is_nested() ||
      tensor.key_set().has_any(kTransforms)) {
    return false;
  }
  if (tensor.key_set().has(c10::DispatchKey::Python) && !is_in_memory(tensor)) {
    return false;
  }
  if (tensor.is_meta()) { // also an empty one, which needs no memory
    return false;
  }
  if (tensor.layout() != at::kStrided) {
    return tensor.is_mkldnn() || is_in_memory(stored_numbers(tensor));
  }
  // What has no storage, of a device with memory of another kind, is read by
  // its own operators.
  return tensor._is_zerotensor() || !tensor.has_storage() ||
      is_in_memory(tensor);
}

bool is_scanned_in_memory(const at::Tensor& tensor) {
  return tensor.is_cpu() && tensor.layout() == at::kStrided &&
      tensor.is_non_overlapping_and_dense();
}

at::Tensor stored_numbers(const at::Tensor& tensor) {
  return tensor.layout() == at::kStrided ? tensor
      : tensor.is_sparse()               ? tensor._values()
                                         : tensor.values();
}

const char* fault_of(const at::Tensor& tensor, bool infinities_count) {
  std::optional<Wrong> wrong = scan_memory(tensor);
  if (!wrong) {
    wrong = scan_by_operators(tensor, infinities_count);
  }
  return wrong->nan                         ? "nan"
      : wrong->infinite && infinities_count ? "infinite"
                                            : nullptr;
}

PyObject* py_can_be_read(PyObject*, PyObject* tensor) {
  HANDLE_TH_ERRORS
  return PyBool_FromLong(
      can_be_read(THPVariable_Unpack(require_tensor(tensor))));
  END_HANDLE_TH_ERRORS
}

PyObject* py_has_numbers(PyObject*, PyObject* tensor) {
  HANDLE_TH_ERRORS
  return PyBool_FromLong(
      has_numbers(THPVariable_Unpack(require_tensor(tensor))));
  END_HANDLE_TH_ERRORS
}

} // namespace torch_ext
