// SPDX-License-Identifier: BSD-3-Clause
#include <anomaly/anomaly_engine.h>

#include <anomaly/evidence.h>
#include <compat.h>
#include <notes/backward_calls.h>
#include <notes/node_notes.h>
#include <notes/operators.h>
#include <notes/seen_calls.h>

#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/saved_variable_hooks.h>

#include <memory>
#include <utility>
#include <vector>

namespace torch_ext {

namespace {

using torch::autograd::Engine;
using torch::autograd::Node;
using torch::autograd::variable_list;

std::vector<compat::NodePtr> nodes_of(const torch::autograd::edge_list& edges) {
  std::vector<compat::NodePtr> nodes;
  for (const auto& edge : edges) {
    if (edge.function) {
      nodes.push_back(edge.function);
    }
  }
  return nodes;
}

/// Makes anomaly metadata, and passes everything else on to the engine that was
/// there before.
class AnomalyEngine : public compat::ForwardingEngine<Engine> {
 public:
  using ForwardingEngine::ForwardingEngine;

  variable_list execute(
      const torch::autograd::edge_list& roots,
      const variable_list& inputs,
      bool keep_graph,
      bool create_graph,
      bool accumulate_grad,
      const torch::autograd::edge_list& outputs) override {
    note_backward(nodes_of(roots), nodes_of(outputs), keep_graph);
    const KeepEvidence keep_evidence;
    return engine_.execute(
        roots, inputs, keep_graph, create_graph, accumulate_grad, outputs);
  }

  c10::intrusive_ptr<at::ivalue::Future> execute_with_graph_task(
      const std::shared_ptr<torch::autograd::GraphTask>& graph_task,
      compat::NodePtr graph_root,
      torch::autograd::InputBuffer&& input_buffer) override {
    return engine_.execute_with_graph_task(
        graph_task, std::move(graph_root), std::move(input_buffer));
  }

  std::unique_ptr<torch::autograd::AnomalyMetadata> make_anomaly_metadata()
      override {
    // Also if torch's own mode was turned on, or on another thread.
    if (torch::autograd::AnomalyMode::is_enabled()) {
      observe_operators_on_this_thread();
      see_calls_of_thread();
    }
    return make_notes();
  }

  std::unique_ptr<torch::autograd::SavedVariableHooks>
  get_default_saved_variable_hooks() override {
    return engine_.get_default_saved_variable_hooks();
  }

  void thread_on_exception(
      const std::shared_ptr<torch::autograd::GraphTask>& graph_task,
      const compat::NodePtr& node,
      std::exception& error) override {
    engine_.thread_on_exception(graph_task, node, error);
  }

  void thread_init(
      int device,
      const std::shared_ptr<torch::autograd::ReadyQueue>& ready_queue,
      bool should_increment) override {
    engine_.thread_init(device, ready_queue, should_increment);
  }

  Engine& engine() {
    return engine_;
  }
};

// Made once, before any node can ask for it, and never destroyed: nodes may ask
// until the process ends.
AnomalyEngine* our_engine = nullptr;

Engine& ours() {
  return *our_engine;
}

Engine& theirs() {
  return our_engine->engine();
}

bool in_use = false;

// Guards both on Python without a GIL.
compat::Mutex switching;

} // namespace

bool use_our_anomaly_metadata(bool use) {
  const compat::Lock lock(switching);
  const bool before = in_use;
  if (use != before) {
    if (our_engine == nullptr) {
      our_engine = new AnomalyEngine(Engine::get_default_engine());
    }
    torch::autograd::set_default_engine_stub(use ? ours : theirs);
    in_use = use;
  }
  return before;
}

} // namespace torch_ext
