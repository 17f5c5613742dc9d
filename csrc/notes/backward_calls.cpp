// SPDX-License-Identifier: BSD-3-Clause
#include <notes/backward_calls.h>

#include <compat.h>
#include <notes/bounded.h>
#include <notes/lazy_traceback.h>
#include <notes/node_notes.h>
#include <python/error.h>
#include <python/gil.h>

#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <atomic>
#include <deque>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace torch_ext {

namespace {

using torch::autograd::Node;

std::atomic<std::uint32_t> begun = 0;

// --- What is kept of a call --------------------------------------------------

struct Call {
  std::uint32_t number;
  Ref stack;
};

constexpr size_t kMostCalls = 1024;

std::deque<Call>& calls() {
  // Never destroyed, since a thread may outlive Python's end.
  static auto* calls = new std::deque<Call>;
  return *calls;
}

// Guards it on Python without a GIL.
compat::Mutex noting_calls;

void note_call(std::uint32_t number) {
  Gil gil;
  try {
    Call call{number, to_traceback(capture_stack())};
    std::optional<Call> dropped; // after the lock is released
    const compat::Lock lock(noting_calls);
    dropped = remember(calls(), std::move(call), kMostCalls);
  } catch (const std::exception&) {
    PyErr_Clear(); // no memory: the call stays unknown
  }
}

// --- What it will free -------------------------------------------------------

/// The nodes on the way from `roots` to `targets`: the engine runs those, and
/// no target that isn't on the way to another one.
std::vector<Node*> nodes_on_the_way(
    const std::vector<compat::NodePtr>& roots,
    const std::vector<compat::NodePtr>& targets) {
  struct State {
    bool is_target = false;
    bool is_seen = false;
    bool runs = false;
  };
  std::unordered_map<Node*, State> states;
  std::vector<std::pair<Node*, size_t>> stack;
  std::vector<Node*> found;
  const auto push = [&](Node* node) {
    if (!std::exchange(states[node].is_seen, true)) {
      stack.emplace_back(node, 0);
    }
  };
  for (const compat::NodePtr& target : targets) {
    states[target.get()].is_target = true;
  }
  for (const compat::NodePtr& root : roots) {
    push(root.get());
    while (!stack.empty()) {
      Node* node = stack.back().first;
      if (stack.back().second < node->num_outputs()) {
        if (const auto& next =
                node->next_edge(stack.back().second++).function) {
          push(next.get());
        }
        continue;
      }
      // All that it leads to is known by now.
      stack.pop_back();
      for (const auto& edge : node->next_edges()) {
        if (edge.function &&
            (states[edge.function.get()].is_target ||
             states[edge.function.get()].runs)) {
          states[node].runs = true;
          found.push_back(node);
          break;
        }
      }
    }
  }
  return found;
}

/// All that `roots` lead to, each visited once.
template <typename Visit>
void for_each_node(
    const std::vector<compat::NodePtr>& roots,
    std::uint32_t number,
    const Visit& visit) {
  // A walk leaves its number in the notes of what it has seen, which is cheaper
  // than a set; one walk at a time.
  static std::atomic_flag leaves_numbers = ATOMIC_FLAG_INIT;
  const bool may_leave = !leaves_numbers.test_and_set();
  std::unordered_set<Node*> others;
  std::vector<Node*> stack;
  const auto push = [&](Node* node) {
    NodeNotes* notes = notes_of(*node);
    const bool is_new = may_leave && notes != nullptr
        ? std::exchange(notes->seen_by, number) != number
        : others.insert(node).second;
    if (is_new) {
      stack.push_back(node);
      visit(notes);
    }
  };
  for (const compat::NodePtr& root : roots) {
    push(root.get());
    while (!stack.empty()) {
      Node* node = stack.back();
      stack.pop_back();
      for (const auto& edge : node->next_edges()) {
        if (edge.function) {
          push(edge.function.get());
        }
      }
    }
  }
  if (may_leave) {
    leaves_numbers.clear();
  }
}

// --- Arguments of run_backward() ---------------------------------------------

/// The node that made a tensor, or the one that accumulates a leaf's gradient,
/// as it stands; null if there is none.
///
/// A new node for a changed view is left to the call itself, and here it is
/// null.
compat::NodePtr standing_node(const at::Tensor& tensor) {
  const auto* meta = torch::autograd::impl::get_autograd_meta(tensor);
  if (meta == nullptr || awaits_node(tensor)) {
    return {};
  }
  return meta->grad_fn_
      ? meta->grad_fn_
      : torch::autograd::impl::try_get_grad_accumulator(tensor);
}

/// The node that a gradient arrives at for a tensor or a GradientEdge; null if
/// there is none, or if `object` is neither, which torch will say.
compat::NodePtr node_at(PyObject* object) {
  if (PyTuple_Check(object)) {
    return PyTuple_GET_SIZE(object) > 0
        ? node_of_object(PyTuple_GET_ITEM(object, 0))
        : compat::NodePtr();
  }
  return THPVariable_Check(object) ? standing_node(THPVariable_Unpack(object))
                                   : compat::NodePtr();
}

/// The same of a tensor that backward begins at. The node that a view is yet to
/// get leads to its base's.
compat::NodePtr root_at(PyObject* object) {
  compat::NodePtr node = node_at(object);
  if (!node && THPVariable_Check(object)) {
    const auto* view = torch::autograd::impl::get_view_autograd_meta(
        THPVariable_Unpack(object));
    if (view != nullptr && view->has_bw_view()) {
      return standing_node(view->get_backward_view().base_);
    }
  }
  return node;
}

std::vector<compat::NodePtr> nodes_at(
    PyObject* objects,
    compat::NodePtr (&node_at)(PyObject*)) {
  std::vector<compat::NodePtr> nodes;
  for (Py_ssize_t i = 0;
       PyTuple_Check(objects) && i < PyTuple_GET_SIZE(objects);
       ++i) {
    if (compat::NodePtr node = node_at(PyTuple_GET_ITEM(objects, i))) {
      nodes.push_back(std::move(node));
    }
  }
  return nodes;
}

} // namespace

std::uint32_t backwards_begun() {
  return begun.load(std::memory_order_relaxed);
}

void note_backward(
    const std::vector<compat::NodePtr>& roots,
    const std::vector<compat::NodePtr>& targets,
    bool keeps_graph) {
  if (!torch::autograd::AnomalyMode::is_enabled() || !Py_IsInitialized()) {
    return;
  }
  const std::uint32_t number = ++begun;
  note_call(number);
  if (keeps_graph) {
    return;
  }
  const auto free = [&](NodeNotes* notes) {
    if (notes != nullptr) {
      // The first one frees it. Another can't run what is freed.
      std::uint32_t none = 0;
      notes->freed_by.compare_exchange_strong(none, number);
    }
  };
  if (targets.empty()) {
    for_each_node(roots, number, free);
    return;
  }
  for (Node* node : nodes_on_the_way(roots, targets)) {
    free(notes_of(*node));
  }
}

void note_backward(PyObject* const* args, Py_ssize_t count) {
  if (!torch::autograd::AnomalyMode::is_enabled() || count <= 4) {
    return;
  }
  const std::vector<compat::NodePtr> targets = nodes_at(args[4], node_at);
  // Nothing leads to inputs without a node: nothing runs then.
  const bool runs_nothing = targets.empty() && PyTuple_Check(args[4]) &&
      PyTuple_GET_SIZE(args[4]) > 0;
  note_backward(
      nodes_at(args[0], root_at),
      targets,
      /*keeps_graph=*/args[2] == Py_True || runs_nothing);
}

void forget_backward_calls() {
  forget(calls(), noting_calls);
}

PyObject* py_backwards(PyObject*, PyObject*) {
  return PyLong_FromUnsignedLong(backwards_begun());
}

PyObject* py_backward_call(PyObject*, PyObject* number) {
  HANDLE_TH_ERRORS
  const unsigned long wanted = PyLong_AsUnsignedLong(number);
  if (PyErr_Occurred() != nullptr) {
    return nullptr;
  }
  const compat::Lock lock(noting_calls);
  for (const Call& call : calls()) {
    if (call.number == wanted) {
      return Py_NewRef(call.stack.get());
    }
  }
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

} // namespace torch_ext
