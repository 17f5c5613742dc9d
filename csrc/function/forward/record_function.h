// A call of apply() as the profiler and other observers see it.
#pragma once

#include <function/arguments.h>

#include <ATen/record_function.h>
#include <optional>

namespace torch_ext {

/// Reports a call under the class's name while it lives, inputs included where
/// an observer wants them. Nothing but a check where nobody observes.
class ObservedCall {
 public:
  /// Throws where an argument's __instancecheck__ raises.
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
