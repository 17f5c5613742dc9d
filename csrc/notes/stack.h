// SPDX-License-Identifier: BSD-3-Clause
// A Python stack as positions in code.
#pragma once

#include <python/ref.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace torch_ext {

/// So many calls reach from an operator, through torch's Python code, to the
/// user's line.
constexpr std::size_t kShortStack = 24;

/// The code objects of the calls on a stack, innermost first.
using CodePath = std::vector<Ref>;

/// Where the calls on a stack were, innermost first. Keeps code objects alive
/// and nothing else: no frames, locals, tensors or modules. Stacks that went
/// through the same code share the list of it. Ends with the GIL held.
class Stack {
 public:
  Stack() = default;
  Stack(std::shared_ptr<const CodePath> path, std::vector<int> instructions)
      : path_(std::move(path)), instructions_(std::move(instructions)) {}

  std::size_t size() const {
    return instructions_.size();
  }
  PyCodeObject* code(std::size_t i) const {
    return reinterpret_cast<PyCodeObject*>((*path_)[i].get());
  }
  /// A byte offset into the code.
  int instruction(std::size_t i) const {
    return instructions_[i];
  }

 private:
  std::shared_ptr<const CodePath> path_;
  std::vector<int> instructions_;
};

/// That of the innermost `most` calls on this thread. Throws if there is no
/// memory.
Stack capture_stack(std::size_t most = SIZE_MAX);

} // namespace torch_ext
