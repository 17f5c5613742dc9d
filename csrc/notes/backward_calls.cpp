// SPDX-License-Identifier: BSD-3-Clause
#include <notes/backward_calls.h>

#include <compat.h>
#include <notes/lazy_traceback.h>
#include <notes/node_notes.h>
#include <python/error.h>
#include <python/gil.h>

#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <exception>
#include <utility>

namespace torch_ext {

namespace {

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
    Call call{number, capture_traceback()};
    Call dropped{0, Ref()}; // after the lock is released
    const compat::Lock lock(noting_calls);
    calls().push_back(std::move(call));
    if (calls().size() > kMostCalls) {
      dropped = std::move(calls().front());
      calls().pop_front();
    }
  } catch (python_error&) {
    PyErr_Clear(); // no memory: the call stays unknown
  }
}

// --- Who frees a node --------------------------------------------------------

// A callback is a plain function and learns from nobody which backward it runs
// in, so each backward that runs has a function of its own: that of its place.
// No locks: a fork could leave one locked.
constexpr size_t kPlaces = 32;
std::array<std::atomic<std::uint32_t>, kPlaces> running{}; // 0: free

/// Runs after the node, before the engine releases what it has saved.
template <size_t place>
void node_has_run(const at::RecordFunction&, at::ObserverContext*) {
  if (torch::autograd::get_current_graph_task_keep_graph() ||
      std::uncaught_exceptions() > 0) {
    return;
  }
  const compat::NodePtr node = torch::autograd::get_current_node();
  if (NodeNotes* notes = node ? notes_of(*node) : nullptr) {
    notes->freed_by.store(
        running[place].load(std::memory_order_relaxed),
        std::memory_order_relaxed);
  }
}

std::unique_ptr<at::ObserverContext> no_start(const at::RecordFunction&) {
  return nullptr;
}

template <size_t... places>
constexpr auto make_callbacks(std::index_sequence<places...>) {
  return std::array{&node_has_run<places>...};
}

constexpr auto kCallbacks = make_callbacks(std::make_index_sequence<kPlaces>());

std::optional<size_t> take_place(std::uint32_t number) {
  for (size_t place = 0; place < kPlaces; ++place) {
    std::uint32_t none = 0;
    if (running[place].compare_exchange_strong(none, number)) {
      return place;
    }
  }
  return std::nullopt;
}

at::CallbackHandle add_callback(size_t place) {
  return at::addThreadLocalCallback(
      at::RecordFunctionCallback(no_start, kCallbacks[place])
          .scopes({at::RecordScope::BACKWARD_FUNCTION}));
}

/// Takes the callback of the backward that this thread runs in out of its
/// thread's, and returns that backward's place.
std::optional<size_t> rest_outer_callback() {
  for (const auto& entry :
       at::get_record_function_tls_().sorted_tls_callbacks_) {
    const auto* found =
        std::find(kCallbacks.begin(), kCallbacks.end(), entry.callback_.end());
    if (found != kCallbacks.end()) {
      at::removeCallback(entry.handle_);
      return found - kCallbacks.begin();
    }
  }
  return std::nullopt;
}

} // namespace

std::uint32_t backwards_begun() {
  return begun.load(std::memory_order_relaxed);
}

BackwardCall::BackwardCall() {
  if (!torch::autograd::AnomalyMode::is_enabled() || !Py_IsInitialized()) {
    return;
  }
  const std::uint32_t number = ++begun;
  note_call(number);
  outer_ = rest_outer_callback();
  place_ = take_place(number);
  if (place_) {
    callback_ = add_callback(*place_);
  }
}

BackwardCall::~BackwardCall() {
  if (place_) {
    at::removeCallback(callback_);
    running[*place_] = 0;
  }
  if (outer_) {
    add_callback(*outer_);
  }
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
