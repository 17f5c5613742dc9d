// SPDX-License-Identifier: BSD-3-Clause
// Calling Python without building a tuple of arguments.
#pragma once

#include <python/error.h>

#include <c10/util/SmallVector.h>

#include <cstddef>

namespace torch_ext {

/// The arguments of a call, borrowed.
class CallArguments {
 public:
  void add(PyObject* argument) {
    stack_.push_back(argument);
  }
  void add(PyObject* const* begin, PyObject* const* end) {
    stack_.append(begin, end);
  }

  /// Calls `callable` with them. `keywords`, a tuple or null, has the names of
  /// the last ones. Throws what the call raises.
  Ref call(PyObject* callable, PyObject* keywords = nullptr) {
    const size_t named = keywords == nullptr
        ? 0
        : static_cast<size_t>(PyTuple_GET_SIZE(keywords));
    const size_t positional = stack_.size() - 1 - named;
    return checked(PyObject_Vectorcall(
        callable,
        stack_.data() + 1,
        positional | PY_VECTORCALL_ARGUMENTS_OFFSET,
        keywords));
  }

 private:
  // The callee may use the slot in front, for the self of a bound method.
  c10::SmallVector<PyObject*, 18> stack_{nullptr};
};

} // namespace torch_ext
