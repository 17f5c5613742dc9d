// SPDX-License-Identifier: BSD-3-Clause
#include <anomaly/checks.h>

#include <anomaly/deferred.h>
#include <anomaly/finite.h>
#include <anomaly/forward_checks.h>
#include <anomaly/saved_sums.h>
#include <compat.h>
#include <notes/node_notes.h>
#include <notes/seen_calls.h>
#include <python/error.h>
#include <python/gil.h>

#include <ATen/ATen.h>
#include <ATen/DeviceGuard.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

namespace torch_ext {

namespace {

using torch::autograd::AccumulateGrad;
using torch::autograd::FunctionPostHook;
using torch::autograd::Node;
using torch::autograd::variable_list;

std::atomic<Checks> in_force = Checks{};
static_assert(std::atomic<Checks>::is_always_lock_free);

// --- The check of a node -----------------------------------------------------

/// What is wrong with a gradient; null if nothing is, or if that can't be known.
const char* fault_of_gradient(const at::Tensor& gradient) {
  if (!gradient.defined() ||
      !(gradient.is_floating_point() || gradient.is_complex())) {
    return nullptr;
  }
  try {
    return fault_of(gradient, true);
  } catch (const c10::Error&) {
    // Of a kind that has no values to look at, as a gradient for vmap.
    return nullptr;
  }
}

[[noreturn]] void fail(const Node& node, const std::string& what) {
  throw std::runtime_error("Function '" + node.name() + "' " + what);
}

/// The last of a node's hooks, which sees what the node was given and gave.
class FiniteCheck : public FunctionPostHook {
 public:
  explicit FiniteCheck(Node& node) : node_(node) {}

  variable_list operator()(
      const variable_list& outputs,
      const variable_list& inputs) override {
    if (checks().deferred) {
      note_gradients(node_, outputs, inputs);
      return outputs;
    }
    const torch::autograd::AutoGradMode no_grad(false);
    // The nodes before gave nothing of the kind, so the engine's sum did, or a
    // hook.
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (const char* fault = fault_of_gradient(inputs[i])) {
        fail(
            node_,
            std::string("was given ") + fault + " values in its " +
                std::to_string(i) + "th input.");
      }
    }
    check_outputs(outputs);
    if (const auto* leaf = dynamic_cast<AccumulateGrad*>(&node_)) {
      if (const char* fault = fault_of_gradient(leaf->variable.grad())) {
        fail(
            node_,
            std::string("left ") + fault + " values in its leaf's gradient.");
      }
    }
    return outputs;
  }

  // Compiled autograd doesn't run nodes one by one.
  void compiled_args(
      torch::dynamo::autograd::CompiledNodeArgs& /*args*/) const override {}

 private:
  void check_outputs(const variable_list& outputs) const {
    for (size_t i = 0; i < outputs.size(); ++i) {
      const char* fault = fault_of_gradient(outputs[i]);
      if (fault == nullptr) {
        continue;
      }
      if (std::string(fault) == "nan") {
        return; // the engine's check comes next
      }
      fail(
          node_,
          "returned infinite values in its " + std::to_string(i) +
              "th output.");
    }
  }

  Node& node_;
};

// --- The nodes that have it --------------------------------------------------

// A node has one check, however many backwards run it: the engine walks through
// a node's hooks, which may not change then.
struct Checked {
  compat::NodePtr node;
  std::uintptr_t hook; // 0 if it has none after it has run
  torch::autograd::FunctionPreHook* hook_before; // or null
  int backwards;
};

std::unordered_map<Node*, Checked>& checked_nodes() {
  // Never destroyed, since a thread may outlive the end of the process's main.
  static auto* nodes = new std::unordered_map<Node*, Checked>;
  return *nodes;
}

// Guards it on Python without a GIL.
compat::Mutex checking;

void add_hooks(Checked& checked) {
  Node& node = *checked.node;
  const Checks wanted = checks();
  if (wanted.inf || wanted.deferred) {
    checked.hook = node.add_post_hook(std::make_unique<FiniteCheck>(node));
  }
  if (wanted.saved) {
    node.add_pre_hook(make_saved_check(node));
    checked.hook_before = node.pre_hooks().back().get();
  }
}

void remove_hooks(Checked& checked) {
  if (checked.hook != 0) {
    checked.node->del_post_hook(checked.hook);
  }
  if (checked.hook_before != nullptr) {
    std::erase_if(checked.node->pre_hooks(), [&](const auto& hook) {
      return hook.get() == checked.hook_before;
    });
  }
}

/// The node that a backward from `root` starts at; null if there is none, or if
/// it isn't a root at all, which torch will say.
compat::NodePtr start_of(PyObject* root) {
  if (THPVariable_Check(root)) {
    return torch::autograd::impl::gradient_edge(THPVariable_Unpack(root))
        .function;
  }
  // A GradientEdge, which is a tuple.
  if (PyTuple_Check(root) && PyTuple_GET_SIZE(root) > 0) {
    return node_of_object(PyTuple_GET_ITEM(root, 0));
  }
  return {};
}

std::vector<compat::NodePtr> reachable_from(PyObject* roots) {
  std::vector<compat::NodePtr> found;
  std::unordered_set<Node*> seen;
  const auto add = [&](const compat::NodePtr& node) {
    if (node && seen.insert(node.get()).second) {
      found.push_back(node);
    }
  };
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(roots); ++i) {
    add(start_of(PyTuple_GET_ITEM(roots, i)));
  }
  for (size_t i = 0; i < found.size(); ++i) {
    const Node& node = *found[i]; // `found` moves, its nodes don't
    for (const auto& edge : node.next_edges()) {
      add(edge.function);
    }
  }
  return found;
}

} // namespace

Checks checks() {
  return in_force.load(std::memory_order_relaxed);
}

PyObject* py_set_anomaly_checks(PyObject*, PyObject* args) {
  HANDLE_TH_ERRORS
  int loss = 0;
  int inf = 0;
  int forward = 0;
  int saved = 0;
  Py_ssize_t every = -1;
  if (!PyArg_ParseTuple(
          args, "pp|ppn", &loss, &inf, &forward, &saved, &every)) {
    return nullptr;
  }
  constexpr Py_ssize_t kMost = std::numeric_limits<std::uint32_t>::max();
  set_look_at_calls(forward != 0 || saved != 0 ? check_call : nullptr);
  const Checks before = in_force.exchange(
      {loss != 0,
       inf != 0,
       forward != 0,
       saved != 0,
       every >= 0,
       static_cast<std::uint32_t>(std::clamp<Py_ssize_t>(every, 0, kMost))});
  return Py_BuildValue(
      "OOOOn",
      before.loss ? Py_True : Py_False,
      before.inf ? Py_True : Py_False,
      before.forward ? Py_True : Py_False,
      before.saved ? Py_True : Py_False,
      before.deferred ? static_cast<Py_ssize_t>(before.every) : -1);
  END_HANDLE_TH_ERRORS
}

CheckedGraph::CheckedGraph(PyObject* roots) {
  const Checks wanted = checks();
  const bool any = wanted.inf || wanted.saved || wanted.deferred;
  if (!any || !PyTuple_Check(roots)) {
    return;
  }
  const compat::Lock lock(checking);
  for (compat::NodePtr& node : reachable_from(roots)) {
    Node& checked = *node;
    auto [it, is_new] =
        checked_nodes().try_emplace(&checked, Checked{node, 0, nullptr, 0});
    if (is_new) {
      add_hooks(it->second);
    }
    ++it->second.backwards;
    nodes_.push_back(&checked);
  }
}

CheckedGraph::~CheckedGraph() {
  // Released last: the end of a node may run any code.
  std::vector<compat::NodePtr> released;
  const compat::Lock lock(checking);
  for (Node* node : nodes_) {
    auto it = checked_nodes().find(node);
    if (--it->second.backwards == 0) {
      remove_hooks(it->second);
      released.push_back(std::move(it->second.node));
      checked_nodes().erase(it);
    }
  }
}

} // namespace torch_ext
