// SPDX-License-Identifier: BSD-3-Clause
// A bool for each argument of a call.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace torch_ext {

/// A list of bools. The first 64 take no memory of their own.
class Flags {
 public:
  static constexpr size_t kBits = 64;

  Flags() = default;
  /// `count` of them, at most kBits, the first in the lowest bit.
  Flags(uint64_t bits, size_t count) : bits_(bits), count_(count) {}
  explicit Flags(const std::vector<bool>& all) {
    for (const bool flag : all) {
      push_back(flag);
    }
  }

  void push_back(bool flag) {
    if (count_ < kBits) {
      bits_ |= static_cast<uint64_t>(flag) << count_;
    } else {
      more_.push_back(flag);
    }
    ++count_;
  }
  size_t size() const {
    return count_;
  }
  bool operator[](size_t i) const {
    return i < kBits ? (bits_ >> i & uint64_t{1}) != 0 : more_[i - kBits];
  }
  bool any() const {
    return bits_ != 0 ||
        std::find(more_.begin(), more_.end(), true) != more_.end();
  }
  /// Whether bits() are all.
  bool are_bits() const {
    return count_ <= kBits;
  }
  uint64_t bits() const {
    return bits_;
  }
  std::vector<bool> to_vector() const {
    std::vector<bool> all(count_);
    for (size_t i = 0; i < count_; ++i) {
      all[i] = (*this)[i];
    }
    return all;
  }

 private:
  uint64_t bits_ = 0;
  size_t count_ = 0;
  std::vector<bool> more_;
};

} // namespace torch_ext
