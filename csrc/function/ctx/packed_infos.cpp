// SPDX-License-Identifier: BSD-3-Clause
#include <function/ctx/packed_infos.h>

#include <cstring>
#include <limits>

namespace torch_ext {

namespace {

using torch::autograd::VariableInfo;

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

constexpr c10::DispatchKeySet kNotPlain({
    c10::DispatchKey::Python,
    c10::DispatchKey::NestedTensor,
    c10::DispatchKey::Functionalize,
    c10::DispatchKey::FuncTorchBatched,
    c10::DispatchKey::FuncTorchGradWrapper,
});

VariableInfo unpacked(const Header& header, const int64_t* sizes) {
  VariableInfo info;
  info.layout = header.layout;
  info.device = at::Device(header.device_type, header.device_index);
  info.scalar_type = header.scalar_type;
  info.size.assign(sizes, sizes + header.dimensions);
  info.requires_grad = header.requires_grad;
  info.is_empty = false;
  return info;
}

} // namespace

bool PackedInfos::is_plain(const at::Tensor& tensor) {
  const at::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  return !impl->key_set().has_any(kNotPlain) &&
      !impl->has_symbolic_sizes_strides() &&
      impl->dim() <= std::numeric_limits<uint16_t>::max();
}

void PackedInfos::pack(const at::Tensor& tensor) {
  const at::IntArrayRef sizes = tensor.sizes();
  const at::Device device = tensor.device();
  const Header header{
      tensor.scalar_type(),
      tensor.layout(),
      device.type(),
      device.index(),
      static_cast<uint16_t>(sizes.size()),
      tensor.requires_grad()};
  int64_t word = 0;
  std::memcpy(&word, &header, sizeof(header));
  words_.push_back(word);
  words_.append(sizes.begin(), sizes.end());
}

void PackedInfos::unpack_words(std::vector<VariableInfo>& infos) {
  for (const int64_t* word = words_.begin(); word != words_.end();) {
    if (*word == kNone) {
      infos.emplace_back();
      ++word;
      continue;
    }
    Header header{};
    std::memcpy(&header, word, sizeof(header));
    infos.push_back(unpacked(header, word + 1));
    word += 1 + header.dimensions;
  }
  words_.clear();
}

} // namespace torch_ext
