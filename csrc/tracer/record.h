// A custom Function's call in the graph that torch.jit.trace records.
#pragma once

#include <function/inputs.h>

#include <torch/csrc/jit/frontend/tracer.h>

namespace torch_ext {

/// A call that the tracer sees: its node, and what keeps that alive whatever
/// forward does to the tracer.
struct Recording {
  std::shared_ptr<torch::jit::tracer::TracingState> state;
  std::shared_ptr<torch::jit::Graph> graph;
  torch::jit::Node* node = nullptr;

  /// Whether the tracer still records the call: forward may have ended the
  /// trace.
  bool active() const;
};

/// Puts a node for the call of `cls` on `arguments` into the graph. `is_tensor`
/// tells for each argument whether it is among `tensors`. Call it just before
/// forward, with the tracer at work. Throws.
Recording record_call(
    PyObject* cls,
    const Arguments& arguments,
    const std::vector<bool>& is_tensor,
    const Inputs& inputs);

/// Completes the node once forward has run and `outputs`, a tuple, are part of
/// the autograd graph: they become the node's outputs, in place of whatever
/// nodes forward recorded. `single` says that forward returned no tuple,
/// `in_place` that it marked an input as dirty. Throws.
void record_outputs(
    const Recording& recording,
    PyTypeObject* cls,
    PyObject* outputs,
    bool in_place,
    bool single);

} // namespace torch_ext
