// SPDX-License-Identifier: BSD-3-Clause
#include <python/gil.h>
#include <python/ref.h>
#include <tracer/infer.h>

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/python/pybind_utils.h>
#include <torch/csrc/jit/python/python_tracer.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace torch_ext {

namespace {

using torch::jit::Stack;

/// The function by which the tracer names variables: `lookup`, which may die
/// with the tracer's state on any thread.
std::function<std::string(const at::Tensor&)> variable_names(
    const py::function& lookup) {
  auto callable = std::make_shared<ThreadFreeRef>(Ref::share(lookup.ptr()));
  return [callable](const at::Tensor& tensor) {
    Gil gil;
    return py::handle(callable->get())(tensor).cast<std::string>();
  };
}

/// What the traced function returned, as the trace's outputs.
Stack traced_outputs(const py::object& result) {
  TORCH_CHECK(
      !result.is_none(),
      "The traced function didn't return any values! Side-effects are not "
      "captured in traces, so it would be a no-op.");
  return {inferred_value(result)};
}

std::pair<std::shared_ptr<torch::jit::Graph>, Stack> graph_and_outputs(
    std::pair<std::shared_ptr<torch::jit::tracer::TracingState>, Stack> trace) {
  return {trace.first->graph, std::move(trace.second)};
}

} // namespace

} // namespace torch_ext

// torch's own, defined a second time: docs/architecture.md says why.
namespace torch::jit::tracer {

std::pair<std::shared_ptr<Graph>, Stack> createGraphByTracing(
    const py::function& func,
    Stack inputs,
    const py::function& var_name_lookup_fn,
    bool strict,
    bool force_outplace,
    Module* self,
    const std::vector<std::string>& argument_names) {
  C10_LOG_API_USAGE_ONCE("torch.tracer");
  return torch_ext::graph_and_outputs(trace(
      std::move(inputs),
      [&func](const Stack& values) {
        py::tuple arguments(values.size());
        for (size_t i = 0; i < values.size(); ++i) {
          arguments[i] = toPyObject(values[i]);
        }
        return torch_ext::traced_outputs(func(*arguments));
      },
      torch_ext::variable_names(var_name_lookup_fn),
      strict,
      force_outplace,
      self,
      argument_names));
}

std::pair<std::shared_ptr<Graph>, Stack> createGraphByTracingWithDict(
    const py::function& func,
    const py::dict& inputs_dict,
    const Stack& /* inputs */,
    const py::function& var_name_lookup_fn,
    bool strict,
    bool force_outplace,
    Module* self,
    const std::vector<std::string>& argument_names) {
  C10_LOG_API_USAGE_ONCE("torch.tracer");
  // The graph's inputs come in the order in which forward declares them.
  std::vector<std::string> names;
  Stack inputs;
  for (const std::string& name : argument_names) {
    if (inputs_dict.contains(name)) {
      names.push_back(name);
      inputs.push_back(torch_ext::inferred_value(inputs_dict[name.c_str()]));
    }
  }
  return torch_ext::graph_and_outputs(trace(
      std::move(inputs),
      [&](const Stack&) {
        return torch_ext::traced_outputs(func(**inputs_dict));
      },
      torch_ext::variable_names(var_name_lookup_fn),
      strict,
      force_outplace,
      self,
      names));
}

} // namespace torch::jit::tracer
