// SPDX-License-Identifier: BSD-3-Clause
// A custom Function's call in the graph that torch.jit.trace records.
#pragma once

#include <cpp/flags.h>
#include <python/ref.h>

#include <c10/util/ArrayRef.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <memory>
#include <vector>

namespace torch_ext {

/// Whether torch.jit.trace is recording on this thread.
inline bool tracing() {
  return torch::jit::tracer::isTracing();
}

/// A call that the tracer sees: its node, and what keeps the node alive
/// whatever forward does to the tracer.
struct Recording {
  std::shared_ptr<torch::jit::tracer::TracingState> state;
  std::shared_ptr<torch::jit::Graph> graph;
  torch::jit::Node* node = nullptr;

  /// Whether the trace goes on: forward may have ended it.
  bool active() const;
};

/// Adds a node to the graph for the call of `cls` on `arguments`. `is_tensor`
/// tells of each argument whether it is a tensor, and `tensors` are those. Call
/// it just before forward, while tracing(). Throws.
Recording record_call(
    PyObject* cls,
    c10::ArrayRef<PyObject*> arguments,
    const Flags& is_tensor,
    c10::ArrayRef<const at::Tensor*> tensors);

/// Completes the node once forward has run and `outputs` are part of the
/// autograd graph: they become the node's outputs, which the nodes that
/// forward recorded had made until then. `single` says that forward returned no
/// tuple, `in_place` that it marked an input as dirty. Throws.
void record_outputs(
    const Recording& recording,
    PyTypeObject* cls,
    c10::ArrayRef<Ref> outputs,
    bool in_place,
    bool single);

} // namespace torch_ext
