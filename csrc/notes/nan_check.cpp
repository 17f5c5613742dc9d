// SPDX-License-Identifier: BSD-3-Clause
#include <notes/nan_check.h>

#include <cpp/torch_kernel.h>

#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string>

namespace torch_ext {

namespace {

using c10::DispatchKey;
using c10::DispatchKeySet;

constexpr DispatchKeySet kCpu(DispatchKey::CPU);

/// An operator of the check, and the kernels of torch that it runs, in order.
struct CheckOperator {
  const char* name;
  std::array<TorchKernel, 3> kernels{};
};

CheckOperator isnan{"aten::isnan"};
CheckOperator is_any_true{"aten::_is_any_true"};

// The key of our kernels, and what runs in any other case.
DispatchKey our_key = DispatchKey::Undefined;
Observe* observe = nullptr;

/// Whether a backward on this thread calls the operator on a plain tensor on the
/// CPU, and nobody could tell our kernel from torch's.
bool is_plain(const CheckOperator& called, const at::Tensor& tensor) {
  const at::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  return torch::autograd::get_current_graph_task_id() != -1 &&
      impl->key_set() - c10::autocast_dispatch_keyset == kCpuKeys &&
      !impl->has_symbolic_sizes_strides() &&
      dispatches_plainly(DispatchKeySet(our_key)) &&
      are_torchs_own(called.kernels);
}

c10::OperatorHandle operator_of(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload);
}

at::Tensor call_otherwise(
    const CheckOperator& called,
    DispatchKeySet keys,
    const at::Tensor& tensor) {
  torch::jit::Stack stack{tensor};
  observe(operator_of(called.name), keys, &stack);
  return stack.front().toTensor();
}

/// Flags for numbers that lie one after the other in memory, laid out as torch
/// lays them out; undefined if they don't.
at::Tensor empty_flags(const at::Tensor& numbers) {
  if (numbers.is_contiguous()) {
    return at::detail::empty_cpu(numbers.sizes(), at::kBool);
  }
  // Such as matrices that are transposed.
  return numbers.is_non_overlapping_and_dense() && numbers.dim() < 4
      ? at::detail::empty_strided_cpu(
            numbers.sizes(), numbers.strides(), at::kBool)
      : at::Tensor();
}

// The loops run over blocks of a fixed size in memory of their own, which the
// compiler turns into vector instructions.
constexpr std::size_t kBlock = 64;

/// Writes for each number whether it is NaN: without the sign, its bits are
/// greater than those of infinity.
template <typename Bits>
void mark_nan(const void* numbers, int64_t count, Bits infinity, bool* marks) {
  constexpr Bits kMagnitude = static_cast<Bits>(Bits(~Bits{0}) >> 1);
  const auto mark = [&](int64_t begin, int64_t size) {
    std::array<Bits, kBlock> bits{};
    std::array<std::uint8_t, kBlock> found;
    std::memcpy(
        bits.data(),
        static_cast<const char*>(numbers) + begin * sizeof(Bits),
        size * sizeof(Bits));
    for (std::size_t i = 0; i < kBlock; ++i) {
      found[i] = (bits[i] & kMagnitude) > infinity;
    }
    std::memcpy(marks + begin, found.data(), size);
  };
  int64_t begin = 0;
  for (; begin + static_cast<int64_t>(kBlock) <= count; begin += kBlock) {
    mark(begin, kBlock);
  }
  mark(begin, count - begin);
}

/// Whether this is a kind of number that mark_nan() knows, which it has done
/// then.
bool mark_nan(const at::Tensor& tensor, bool* marks) {
  const void* numbers = tensor.const_data_ptr();
  const int64_t count = tensor.numel();
  switch (tensor.scalar_type()) {
    case at::kDouble:
      mark_nan<std::uint64_t>(numbers, count, 0x7ff0000000000000, marks);
      return true;
    case at::kFloat:
      mark_nan<std::uint32_t>(numbers, count, 0x7f800000, marks);
      return true;
    case at::kBFloat16:
      mark_nan<std::uint16_t>(numbers, count, 0x7f80, marks);
      return true;
    case at::kHalf:
      mark_nan<std::uint16_t>(numbers, count, 0x7c00, marks);
      return true;
    default:
      return false;
  }
}

at::Tensor run_isnan(DispatchKeySet keys, const at::Tensor& tensor) {
  if (is_plain(isnan, tensor)) {
    at::Tensor marks = empty_flags(tensor);
    if (marks.defined() &&
        mark_nan(tensor, static_cast<bool*>(marks.mutable_data_ptr()))) {
      return marks;
    }
  }
  return call_otherwise(isnan, keys, tensor);
}

bool has_true(const void* flags, int64_t count) {
  std::array<std::uint64_t, kBlock / sizeof(std::uint64_t)> words{};
  std::array<std::uint64_t, kBlock / sizeof(std::uint64_t)> found{};
  const char* begin = static_cast<const char*>(flags);
  while (count > 0) {
    const std::size_t size = std::min<std::size_t>(count, kBlock);
    if (size < kBlock) {
      words = {};
    }
    std::memcpy(words.data(), begin, size);
    for (std::size_t i = 0; i < words.size(); ++i) {
      found[i] |= words[i];
    }
    begin += size;
    count -= static_cast<int64_t>(size);
  }
  return std::any_of(
      found.begin(), found.end(), [](std::uint64_t word) { return word != 0; });
}

at::Tensor run_is_any_true(DispatchKeySet keys, const at::Tensor& tensor) {
  if (tensor.scalar_type() != at::kBool ||
      !tensor.is_non_overlapping_and_dense() ||
      !is_plain(is_any_true, tensor)) {
    return call_otherwise(is_any_true, keys, tensor);
  }
  at::Tensor result = at::detail::empty_cpu({}, at::kBool);
  *static_cast<bool*>(result.mutable_data_ptr()) =
      has_true(tensor.const_data_ptr(), tensor.numel());
  return result;
}

} // namespace

std::optional<c10::KernelFunction> nan_check_kernel(
    const c10::OperatorHandle& op,
    DispatchKey key,
    Observe* otherwise) {
  our_key = key;
  observe = otherwise;
  const std::string& name = op.schema().name();
  // What an operator calls on the way it calls below autograd.
  if (name == isnan.name && op.schema().overload_name().empty()) {
    isnan.kernels = {
        TorchKernel(op, kCpuKeys),
        TorchKernel(op, kCpu),
        TorchKernel(operator_of("aten::ne", "Tensor"), kCpu)};
    return c10::KernelFunction::makeFromUnboxedRuntimeFunction(&run_isnan);
  }
  if (name == is_any_true.name) {
    is_any_true.kernels = {
        TorchKernel(op, kCpuKeys),
        TorchKernel(op, kCpu),
        TorchKernel(operator_of("aten::any"), kCpu)};
    return c10::KernelFunction::makeFromUnboxedRuntimeFunction(
        &run_is_any_true);
  }
  return std::nullopt;
}

} // namespace torch_ext
