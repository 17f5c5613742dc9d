// SPDX-License-Identifier: BSD-3-Clause
#include <anomaly/evidence.h>

#include <notes/node_notes.h>
#include <python/error.h>
#include <python/gil.h>

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/python_function.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <typeinfo>
#include <unordered_map>
#include <utility>

namespace torch_ext {

namespace {

using torch::autograd::Node;
using torch::autograd::PyNode;
using torch::autograd::SavedVariable;
using torch::dynamo::autograd::AutogradCompilerCall;
using torch::dynamo::autograd::CompiledNodeArgs;
using torch::dynamo::autograd::NodeCall;
using torch::dynamo::autograd::SizeInput;
using torch::dynamo::autograd::TensorArg;
using torch::dynamo::autograd::TensorArgs;

// --- A place for each thread -------------------------------------------------

// No locks: a fork could leave one locked.
struct Place {
  std::atomic<Evidence*> kept = nullptr;
  std::atomic<bool> has_thread = true;
  Place* next = nullptr;
};

// Never shorter. A thread takes a place that an ended one has left.
std::atomic<Place*> places = nullptr;

/// Backwards that run now, in the whole process.
std::atomic<int> running = 0;

Place* take_place() {
  for (Place* place = places; place != nullptr; place = place->next) {
    bool taken = false;
    if (place->has_thread.compare_exchange_strong(taken, true)) {
      return place;
    }
  }
  auto* place = new Place;
  place->next = places;
  while (!places.compare_exchange_weak(place->next, place)) {
  }
  return place;
}

void drop(Place& place) {
  // May run any code, as the end of a tensor does.
  delete place.kept.exchange(nullptr);
}

/// This thread's place, until the thread ends.
class OwnPlace {
 public:
  OwnPlace() : place_(take_place()) {}
  ~OwnPlace() {
    drop(*place_);
    place_->has_thread = false;
  }
  OwnPlace(const OwnPlace&) = delete;
  OwnPlace& operator=(const OwnPlace&) = delete;

  Place& operator*() const {
    return *place_;
  }

 private:
  Place* place_;
};

Place& own_place() {
  thread_local OwnPlace place;
  return *place;
}

// --- What a node has saved ---------------------------------------------------

// C++ checks no access in an explicit instantiation, so that this can name the
// private map from saved variables to what became of them.
using SavedVariables =
    std::unordered_map<const SavedVariable*, TensorArg*> TensorArgs::*;
SavedVariables saved_variables();
template <SavedVariables member>
struct Unlocked {
  friend SavedVariables saved_variables() {
    return member;
  }
};
template struct Unlocked<&TensorArgs::_saved_variables>;

bool is_generated(const std::type_info& type) {
  constexpr const char* kNamespace = "N5torch8autograd9generated";
  return std::strncmp(type.name(), kNamespace, std::strlen(kNamespace)) == 0;
}

/// Whether nodes of a type never save anything, as this thread has seen: such
/// are half of a graph, and asking costs.
bool& saves_nothing(const std::type_info& type) {
  thread_local std::unordered_map<const std::type_info*, bool> seen;
  return seen[&type];
}

/// What one of torch's generated nodes shows to compiled autograd, the only way
/// to its saved variables without the GIL. No hook runs.
std::vector<at::Tensor> saved_by_generated(const compat::NodePtr& node) {
  const Node& generated = *node;
  bool& nothing = saves_nothing(typeid(generated));
  if (nothing) {
    return {};
  }
  AutogradCompilerCall collected(SizeInput::STATIC);
  NodeCall call(0, node);
  CompiledNodeArgs args(collected, call);
  {
    const std::lock_guard lock(mutex_of(*node));
    node->compiled_args(args);
  }
  TensorArgs& tensors = collected.tensor_args;
  std::vector<std::pair<const SavedVariable*, at::Tensor>> saved;
  for (const auto& [variable, arg] : tensors.*saved_variables()) {
    saved.emplace_back(
        variable, arg->defined() ? tensors.inputs[arg->index()] : at::Tensor());
  }
  for (const auto& [variable, hook] : collected.sv_to_hooks) {
    saved.emplace_back(variable, at::Tensor());
  }
  nothing = saved.empty();
  // In the order of the class's members, which is that of its attributes.
  std::sort(saved.begin(), saved.end(), [](const auto& a, const auto& b) {
    return std::less<>()(a.first, b.first);
  });
  std::vector<at::Tensor> result;
  result.reserve(saved.size());
  for (auto& [variable, tensor] : saved) {
    result.push_back(std::move(tensor));
  }
  return result;
}

at::Tensor unpack_without_hooks(
    const SavedVariable& variable,
    const compat::NodePtr& node) {
  try {
    // Unpacking asks for the tensor's grad_fn(), and stock torch doesn't now.
    const std::optional<at::Tensor> data = variable.get_raw_data();
    const bool untold = !data || (data->defined() && awaits_node(*data));
    return untold ? at::Tensor() : variable.unpack(node);
  } catch (const c10::Error&) { // modified in place
    return at::Tensor();
  }
}

std::vector<at::Tensor> saved_by_function(const compat::NodePtr& node) {
  std::vector<at::Tensor> result;
  Gil gil;
  auto* ctx = reinterpret_cast<THPFunction*>(
      compat::ctx_of(static_cast<PyNode&>(*node)));
  if (ctx != nullptr) {
    for (const SavedVariable& variable : ctx->saved_variables) {
      result.push_back(unpack_without_hooks(variable, node));
    }
  }
  return result;
}

// --- Before and after a node -------------------------------------------------

std::unique_ptr<at::ObserverContext> node_begins(const at::RecordFunction&) {
  drop(own_place());
  return nullptr;
}

/// Runs before the node's release and its check.
void node_has_run(const at::RecordFunction&, at::ObserverContext*) {
  const compat::NodePtr node = torch::autograd::get_current_node();
  if (!node) {
    return;
  }
  try {
    std::vector<at::Tensor> saved = saved_by(node);
    if (!saved.empty()) {
      keep_evidence({node, std::move(saved)});
    }
  } catch (const std::exception&) {
    // A tensor has been modified in place, or is of a kind that can't be
    // unpacked so: nothing is known of the node.
    drop(own_place());
  }
}

/// Whether the backward that this one runs in, if any, has the callbacks, which
/// the engine passes on to its threads.
bool has_callbacks() {
  const auto& callbacks = at::get_record_function_tls_().sorted_tls_callbacks_;
  return std::any_of(callbacks.begin(), callbacks.end(), [](const auto& entry) {
    return entry.callback_.start() == node_begins;
  });
}

} // namespace

std::vector<at::Tensor> saved_by(const compat::NodePtr& node) {
  // The size of a tensor may be a symbol that looking would fix.
  if (c10::impl::TorchDispatchModeTLS::any_modes_set()) {
    return {};
  }
  // Unpacking must not call a subclass of Tensor.
  const c10::impl::ExcludeDispatchKeyGuard no_python(
      c10::DispatchKeySet(
          {c10::DispatchKey::Python, c10::DispatchKey::PythonTLSSnapshot}));
  const Node& made = *node;
  if (is_generated(typeid(made))) {
    return saved_by_generated(node);
  }
  return dynamic_cast<PyNode*>(node.get()) != nullptr
      ? saved_by_function(node)
      : std::vector<at::Tensor>();
}

Ref to_python(const Evidence& evidence) {
  Ref saved =
      checked(PyTuple_New(static_cast<Py_ssize_t>(evidence.saved.size())));
  for (size_t i = 0; i < evidence.saved.size(); ++i) {
    // An undefined tensor becomes None.
    PyTuple_SET_ITEM(
        saved.get(),
        static_cast<Py_ssize_t>(i),
        checked(THPVariable_Wrap(evidence.saved[i])).release());
  }
  Ref node = checked(torch::autograd::functionToPyObject(evidence.node));
  return checked(PyTuple_Pack(2, node.get(), saved.get()));
}

void keep_evidence(Evidence evidence) {
  Place& place = own_place();
  drop(place);
  place.kept = new Evidence(std::move(evidence));
}

KeepEvidence::KeepEvidence()
    : on_(torch::autograd::AnomalyMode::is_enabled() &&
          torch::autograd::AnomalyMode::should_check_nan()) {
  if (!on_) {
    return;
  }
  if (!has_callbacks()) {
    callback_ = at::addThreadLocalCallback(
        at::RecordFunctionCallback(node_begins, node_has_run)
            .scopes({at::RecordScope::BACKWARD_FUNCTION}));
  }
  ++running;
}

KeepEvidence::~KeepEvidence() {
  if (!on_) {
    return;
  }
  if (callback_) {
    at::removeCallback(*callback_);
  }
  drop(own_place());
  // What the engine's threads hold. A backward that begins just now may lose
  // something of its evidence: its report then says less.
  if (--running == 0) {
    for (Place* place = places; place != nullptr; place = place->next) {
      drop(*place);
    }
  }
}

Evidence take_evidence(const torch::autograd::AnomalyMetadata* metadata) {
  Place& place = own_place();
  std::unique_ptr<Evidence> kept(place.kept.exchange(nullptr));
  return kept && kept->node->metadata() == metadata ? std::move(*kept)
                                                    : Evidence();
}

} // namespace torch_ext
