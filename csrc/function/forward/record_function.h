// SPDX-License-Identifier: BSD-3-Clause
// A call of apply() as the profiler and other observers see it.
#pragma once

#include <function/forward/arguments.h>

#include <ATen/record_function.h>

#include <optional>
#include <utility>

namespace torch_ext {

/// Reports the call, under the name of the class, for as long as it lives: with
/// inputs if an observer wants them. If nobody observes, this is one check.
class ObservedCall {
 public:
  /// Throws TypeError for an argument that only claims to be a tensor.
  ObservedCall(PyTypeObject* cls, const Arguments& arguments) {
    if (auto callbacks =
            at::getStepCallbacksUnlessEmpty(at::RecordScope::FUNCTION)) {
      begin(std::move(*callbacks), cls, arguments);
    }
  }

 private:
  void begin(
      at::StepCallbacks&& callbacks,
      PyTypeObject* cls,
      const Arguments& arguments);

  std::optional<at::RecordFunction> record_;
};

} // namespace torch_ext
