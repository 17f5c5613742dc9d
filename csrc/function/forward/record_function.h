// SPDX-License-Identifier: BSD-3-Clause
// A call of apply() as the profiler and other observers see it.
#pragma once

#include <function/forward/arguments.h>

#include <ATen/record_function.h>

#include <cstdint>
#include <optional>
#include <utility>

namespace torch_ext {

/// Reports the call, under the name of the class, for as long as it lives: with
/// inputs if an observer wants them. If nobody observes, this is one check.
class ObservedCall {
 public:
  /// `sequence_nr`: by which the profiler links the call and its node. Throws
  /// TypeError for an argument that only claims to be a tensor.
  ObservedCall(
      PyTypeObject* cls,
      const Arguments& arguments,
      std::int64_t sequence_nr) {
    if (auto callbacks =
            at::getStepCallbacksUnlessEmpty(at::RecordScope::FUNCTION)) {
      begin(std::move(*callbacks), cls, arguments, sequence_nr);
    }
  }

 private:
  void begin(
      at::StepCallbacks&& callbacks,
      PyTypeObject* cls,
      const Arguments& arguments,
      std::int64_t sequence_nr);

  std::optional<at::RecordFunction> record_;
};

} // namespace torch_ext
