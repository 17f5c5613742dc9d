// SPDX-License-Identifier: BSD-3-Clause
#include <anomaly/deferred.h>

#include <anomaly/checks.h>
#include <anomaly/evidence.h>
#include <anomaly/finite.h>
#include <compat.h>
#include <python/error.h>
#include <python/gil.h>

#include <ATen/ATen.h>
#include <ATen/DeviceGuard.h>
#include <ATen/ThreadLocalPythonObjects.h>
#include <torch/csrc/PyInterpreter.h>
#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/grad_mode.h>

#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace torch_ext {

namespace {

using torch::autograd::Node;
using torch::autograd::variable_list;

std::vector<Evidence>& late_evidence() {
  thread_local std::vector<Evidence> late;
  return late;
}

} // namespace

/// What is known of the nodes that one backward has run.
class DeferredSession {
 public:
  /// What may be wrong with a gradient.
  struct Flag {
    at::Tensor on_device; // whether it is; undefined if that is known
    bool is_set;
    compat::NodePtr node;
    std::string text;
    size_t step;
  };

  struct Ran {
    size_t step;
    Evidence evidence;
  };

  using Flags = std::vector<Flag>;

  void add(Flags flags, Evidence evidence) {
    const std::lock_guard lock(mutex_);
    ++steps_;
    for (Flag& flag : flags) {
      flag.step = steps_;
      flags_.push_back(std::move(flag));
    }
    if (!evidence.saved.empty()) {
      ran_.push_back({steps_, std::move(evidence)});
    }
  }

  /// Whether it is time to look, if that isn't only at the end.
  bool is_due(size_t every) {
    const std::lock_guard lock(mutex_);
    return every != 0 && steps_ % every == 0;
  }

  /// Forgets what is all right.
  void look_between() {
    const auto [flags, ran] = take();
    const Flag* bad = first_of(*flags);
    if (bad != nullptr) {
      const std::lock_guard lock(mutex_);
      // In front of what was added meanwhile.
      flags_.insert(flags_.begin(), *bad);
      ran_.insert(ran_.begin(), ran->begin(), ran->end());
    }
  }

  void look() {
    const auto [flags, ran] = take();
    const Flag* bad = first_of(*flags);
    if (bad == nullptr) {
      return;
    }
    std::vector<Evidence> late;
    for (Ran& each : *ran) {
      if (each.step == bad->step) {
        keep_evidence(std::move(each.evidence));
      } else if (each.step > bad->step) {
        late.push_back(std::move(each.evidence));
      }
    }
    late_evidence() = std::move(late);
    Node& node = *bad->node;
    node.metadata()->print_stack(node.name());
    throw std::runtime_error(
        "Function '" + node.name() + "' " + bad->text +
        " This was found after backward, which went on with it.");
  }

 private:
  std::pair<std::unique_ptr<Flags>, std::unique_ptr<std::vector<Ran>>> take() {
    const std::lock_guard lock(mutex_);
    return {
        std::make_unique<Flags>(std::exchange(flags_, {})),
        std::make_unique<std::vector<Ran>>(std::exchange(ran_, {}))};
  }

  /// Null if none is set. Waits for each device once.
  static const Flag* first_of(Flags& flags) {
    std::map<std::string, std::vector<Flag*>> by_device;
    for (Flag& flag : flags) {
      if (flag.on_device.defined()) {
        by_device[flag.on_device.device().str()].push_back(&flag);
      }
    }
    for (auto& [device, there] : by_device) {
      std::vector<at::Tensor> all;
      for (const Flag* flag : there) {
        all.push_back(flag->on_device);
      }
      const at::Tensor here = at::stack(all).cpu();
      for (size_t i = 0; i < there.size(); ++i) {
        there[i]->is_set = here.const_data_ptr<bool>()[i];
        there[i]->on_device.reset();
      }
    }
    for (const Flag& flag : flags) {
      if (flag.is_set) {
        return &flag;
      }
    }
    return nullptr;
  }

  std::mutex mutex_;
  size_t steps_ = 0;
  Flags flags_;
  std::vector<Ran> ran_;
};

namespace {

// --- The session of the backward that runs on this thread --------------------

// The engine passes such objects on to its threads.
constexpr const char* kSessionKey = "torch_ext.deferred_check";

void delete_session(PyObject* capsule) {
  delete static_cast<std::shared_ptr<DeferredSession>*>(
      PyCapsule_GetPointer(capsule, kSessionKey));
}

std::shared_ptr<c10::SafePyObject> to_object(
    const std::shared_ptr<DeferredSession>& session) {
  auto owner = std::make_unique<std::shared_ptr<DeferredSession>>(session);
  Ref capsule =
      checked(PyCapsule_New(owner.get(), kSessionKey, delete_session));
  [[maybe_unused]] auto* the_capsules = owner.release();
  return std::make_shared<c10::SafePyObject>(
      capsule.release(), getPyInterpreter());
}

std::shared_ptr<c10::SafePyObject> session_object() {
  using Objects = at::impl::ThreadLocalPythonObjects;
  return Objects::contains(kSessionKey) ? Objects::get(kSessionKey) : nullptr;
}

/// Null if the backward has none.
std::shared_ptr<DeferredSession> current_session() {
  const std::shared_ptr<c10::SafePyObject> object = session_object();
  if (!object) {
    return nullptr;
  }
  // A capsule never changes, so that this needs no GIL.
  auto* session = static_cast<std::shared_ptr<DeferredSession>*>(
      PyCapsule_GetPointer(object->ptr(getPyInterpreter()), kSessionKey));
  return session == nullptr ? nullptr : *session;
}

// --- What a node gave --------------------------------------------------------

void add_flags(
    DeferredSession::Flags& flags,
    Node& node,
    const at::Tensor& gradient,
    const std::string& before,
    const std::string& after) {
  if (!has_numbers(gradient)) {
    return;
  }
  const auto text = [&](const char* fault) {
    return before + " " + fault + " values in its " + after;
  };
  const bool infinities_count = checks().inf;
  if (is_scanned_in_memory(gradient)) {
    if (const char* fault = fault_of(gradient, infinities_count)) {
      flags.push_back({{}, true, node.getptr(), text(fault), 0});
    }
    return;
  }
  try {
    const at::OptionalDeviceGuard guard(at::device_of(gradient));
    const at::Tensor numbers = stored_numbers(gradient);
    flags.push_back(
        {at::isnan(numbers).any(), false, node.getptr(), text("nan"), 0});
    if (infinities_count) {
      flags.push_back(
          {at::isinf(numbers).any(),
           false,
           node.getptr(),
           text("infinite"),
           0});
    }
  } catch (const c10::Error&) {
    return; // of a kind without these operators
  }
}

} // namespace

DeferredCheck::DeferredCheck() {
  if (checks().deferred) {
    session_ = std::make_shared<DeferredSession>();
    before_ = session_object();
    at::impl::ThreadLocalPythonObjects::set(kSessionKey, to_object(session_));
  }
}

DeferredCheck::~DeferredCheck() {
  if (!session_) {
    return;
  }
  if (before_) {
    at::impl::ThreadLocalPythonObjects::set(kSessionKey, before_);
  } else {
    compat::erase_thread_object<at::impl::ThreadLocalPythonObjects>(
        kSessionKey);
  }
}

void DeferredCheck::look() {
  if (session_) {
    const torch::autograd::AutoGradMode no_grad(false);
    session_->look();
  }
}

void note_gradients(
    Node& node,
    const variable_list& outputs,
    const variable_list& inputs) {
  const std::shared_ptr<DeferredSession> session = current_session();
  if (!session) {
    return;
  }
  const Aside aside;
  DeferredSession::Flags flags;
  for (size_t i = 0; i < inputs.size() && checks().inf; ++i) {
    add_flags(
        flags, node, inputs[i], "was given", std::to_string(i) + "th input.");
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    add_flags(
        flags, node, outputs[i], "returned", std::to_string(i) + "th output.");
  }
  const auto* leaf = dynamic_cast<torch::autograd::AccumulateGrad*>(&node);
  if (leaf != nullptr && checks().inf) {
    add_flags(flags, node, leaf->variable.grad(), "left", "leaf's gradient.");
  }
  Evidence evidence{node.getptr(), {}};
  try {
    evidence.saved = saved_by(evidence.node);
  } catch (const std::exception&) {
    evidence.saved.clear(); // nothing is known of the node
  }
  session->add(std::move(flags), std::move(evidence));
  if (session->is_due(checks().every)) {
    session->look_between();
  }
}

PyObject* py_take_late_evidence(PyObject*, PyObject*) {
  HANDLE_TH_ERRORS
  const std::vector<Evidence> late = std::exchange(late_evidence(), {});
  Ref list = checked(PyList_New(0));
  for (const Evidence& each : late) {
    Ref item = to_python(each);
    check_status(PyList_Append(list.get(), item.get()));
  }
  return list.release();
  END_HANDLE_TH_ERRORS
}

} // namespace torch_ext
