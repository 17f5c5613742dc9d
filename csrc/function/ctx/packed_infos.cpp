// SPDX-License-Identifier: BSD-3-Clause
#include <function/ctx/packed_infos.h>

namespace torch_ext {

using torch::autograd::VariableInfo;

template <unsigned kWords>
VariableInfo PackedInfos<kWords>::unpacked(
    const Header& header,
    const int64_t* sizes) {
  VariableInfo info;
  info.layout = header.layout;
  info.device = at::Device(header.device_type, header.device_index);
  info.scalar_type = header.scalar_type;
  info.size.assign(sizes, sizes + header.dimensions);
  info.requires_grad = header.requires_grad;
  info.is_empty = false;
  return info;
}

template <unsigned kWords>
void PackedInfos<kWords>::unpack_words(std::vector<VariableInfo>& infos) {
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

template class PackedInfos<8>; // PackedInputs
template class PackedInfos<6>; // PackedOutputs

} // namespace torch_ext
