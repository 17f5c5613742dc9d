// SPDX-License-Identifier: BSD-3-Clause
// What backward may have to know of the tensors of a call.
#pragma once

#include <c10/util/SmallVector.h>
#include <torch/csrc/autograd/variable_info.h>

#include <cstdint>
#include <vector>

namespace torch_ext {

/// The VariableInfos of a call's inputs or outputs, packed into a few integers
/// each until somebody asks for them. Few do: backward when a gradient is
/// missing, and compiled autograd.
///
/// A tensor that can't be packed (it has symbolic sizes, is nested or is a
/// subclass with a dispatch of its own) goes to `infos` at once, and so does
/// every tensor after it: either all infos are packed, or none is.
class PackedInfos {
 public:
  using VariableInfo = torch::autograd::VariableInfo;

  /// Starts over, for a call whose infos end up in `infos`.
  void begin(std::vector<VariableInfo>& infos) {
    words_.clear();
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

  static bool is_plain(const at::Tensor& tensor);
  void pack(const at::Tensor& tensor);
  void unpack_words(std::vector<VariableInfo>& infos);

  /// For each tensor a header and its sizes, or kNone.
  c10::SmallVector<int64_t, 8> words_;
};

} // namespace torch_ext
