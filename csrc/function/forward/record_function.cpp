// SPDX-License-Identifier: BSD-3-Clause
#include <function/forward/record_function.h>

#include <python/tensor.h>
#include <tracer/infer.h>

#include <torch/csrc/profiler/api.h>

#include <utility>
#include <vector>

namespace torch_ext {

namespace {

/// The values that observers get: tensors if they ask for inputs, and other
/// values of simple types if the profiler records shapes.
std::vector<c10::IValue> observed_inputs(
    const Arguments& arguments,
    bool with_tensors) {
  using namespace torch::autograd;
  const bool with_others = profiler::profilerEnabled() &&
      profiler::getProfilerConfig().report_input_shapes;
  std::vector<c10::IValue> values;
  for (PyObject* argument : arguments) {
    if (is_real_tensor(argument)) {
      if (with_tensors) {
        values.emplace_back(THPVariable_Unpack(argument));
      }
    } else if (with_others) {
      if (auto value = simple_value(argument)) {
        values.push_back(std::move(*value));
      }
    }
  }
  return values;
}

} // namespace

void ObservedCall::begin(
    at::StepCallbacks&& callbacks,
    PyTypeObject* cls,
    const Arguments& arguments,
    std::int64_t sequence_nr) {
  record_.emplace(std::move(callbacks));
  const bool with_tensors = record_->needsInputs();
  const std::vector<c10::IValue> inputs =
      observed_inputs(arguments, with_tensors);
  if (with_tensors) {
    record_->before(
        cls->tp_name,
        c10::ArrayRef<const c10::IValue>(inputs.data(), inputs.size()),
        sequence_nr);
  } else {
    record_->before(cls->tp_name, sequence_nr);
  }
}

} // namespace torch_ext
