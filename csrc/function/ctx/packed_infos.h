// SPDX-License-Identifier: BSD-3-Clause
// What backward may have to know of the tensors of a call.
#pragma once

#include <c10/util/SmallVector.h>
#include <torch/csrc/autograd/variable_info.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

namespace torch_ext {

/// The VariableInfos of a call's inputs or outputs, packed into a few integers
/// each until somebody asks for them. Few do: backward when a gradient is
/// missing, and compiled autograd.
///
/// A tensor that can't be packed (it has symbolic sizes, is nested or is a
/// subclass with a dispatch of its own) goes to `infos` at once, and so does
/// every tensor after it: either all infos are packed, or none is.
///
/// Up to `kWords` integers need no memory of their own.
template <unsigned kWords>
class PackedInfos {
 public:
  using VariableInfo = torch::autograd::VariableInfo;

  /// Starts over, for a call with `count` infos, which end up in `infos`.
  void begin(std::vector<VariableInfo>& infos, size_t count) {
    words_.clear();
    words_.reserve(2 * count); // most tensors have one dimension or two
    infos.clear();
  }
  bool empty() const {
    return words_.empty();
  }
  /// As infos.emplace_back(tensor, by_zeros_like).
  void add(
      std::vector<VariableInfo>& infos,
      const at::Tensor& tensor,
      bool by_zeros_like = false) {
    if (infos.empty() && !by_zeros_like && is_plain(tensor)) {
      pack(tensor);
    } else {
      unpack(infos);
      infos.emplace_back(tensor, by_zeros_like);
    }
  }
  /// As infos.emplace_back(), for what is no tensor.
  void add_none(std::vector<VariableInfo>& infos) {
    if (infos.empty()) {
      words_.push_back(kNone);
    } else {
      infos.emplace_back();
    }
  }
  /// Moves all that is packed to `infos`.
  void unpack(std::vector<VariableInfo>& infos) {
    if (!words_.empty()) {
      unpack_words(infos);
    }
  }

 private:
  static constexpr int64_t kNone = -1;

  /// The first word of a tensor; the sizes follow.
  struct Header {
    at::ScalarType scalar_type;
    at::Layout layout;
    at::DeviceType device_type;
    c10::DeviceIndex device_index;
    uint16_t dimensions;
    bool requires_grad;
  };
  static_assert(sizeof(Header) <= sizeof(int64_t));

  static constexpr c10::DispatchKeySet kNotPlain{
      c10::DispatchKey::Python,
      c10::DispatchKey::NestedTensor,
      c10::DispatchKey::Functionalize,
      c10::DispatchKey::FuncTorchBatched,
      c10::DispatchKey::FuncTorchGradWrapper};

  static bool is_plain(const at::Tensor& tensor) {
    const at::TensorImpl* impl = tensor.unsafeGetTensorImpl();
    return !impl->key_set().has_any(kNotPlain) &&
        !impl->has_symbolic_sizes_strides() &&
        impl->dim() <= std::numeric_limits<uint16_t>::max();
  }
  void pack(const at::Tensor& tensor) {
    const at::IntArrayRef sizes = tensor.sizes();
    const at::Device device = tensor.device();
    const size_t begin = words_.size();
    words_.resize_for_overwrite(begin + 1 + sizes.size());
    int64_t* word = words_.begin() + begin;
    new (word) Header{
        tensor.scalar_type(),
        tensor.layout(),
        device.type(),
        device.index(),
        static_cast<uint16_t>(sizes.size()),
        tensor.requires_grad()};
    for (const int64_t size : sizes) {
      *++word = size;
    }
  }
  static VariableInfo unpacked(const Header& header, const int64_t* sizes);
  void unpack_words(std::vector<VariableInfo>& infos);

  /// For each tensor a header and its sizes, or kNone.
  c10::SmallVector<int64_t, kWords> words_;
};

/// As many as leave the ctx small enough: a call's outputs are fewer.
using PackedInputs = PackedInfos<8>;
using PackedOutputs = PackedInfos<6>;

} // namespace torch_ext
