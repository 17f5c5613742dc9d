// SPDX-License-Identifier: BSD-3-Clause
#include <notes/operators.h>

#include <notes/changes.h>
#include <notes/cuts.h>
#include <python/error.h>

#include <ATen/core/function_schema.h>
#include <ATen/record_function.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/SmallVector.h>
#include <torch/csrc/autograd/anomaly_mode.h>

#include <atomic>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>

namespace torch_ext {

namespace {

// --- Operators ---------------------------------------------------------------

struct Operator {
  std::string name;
  /// If not, somebody has named a part of an operator so.
  bool has_schema = false;
  /// Positions of the arguments that it may change.
  c10::SmallVector<std::uint32_t, 2> changes;
  /// Whether what it returned required grad each time that something that it
  /// was given did.
  bool passes_grad = false;
  bool has_cut = false;
};

Operator describe(const at::RecordFunction& function) {
  Operator result;
  result.name = function.name();
  if (const auto schema = function.operator_schema()) {
    result.has_schema = true;
    for (size_t i = 0; i < schema->arguments().size(); ++i) {
      const auto* alias = schema->arguments()[i].alias_info();
      if (alias != nullptr && alias->isWrite()) {
        result.changes.push_back(static_cast<std::uint32_t>(i));
      }
    }
  }
  // Whether they do depends on an argument.
  result.has_cut = result.name == "aten::to" || result.name == "aten::_to_copy";
  return result;
}

/// What this thread knows of the operator that runs.
Operator& operator_of(const at::RecordFunction& function) {
  // By the address of its name, which is its schema's own. One that is taken
  // away may leave its address to another.
  thread_local std::unordered_map<const char*, Operator> known;
  const char* name = function.name();
  const auto it = known.find(name);
  if (it != known.end() && it->second.name == name) {
    return it->second;
  }
  return known.insert_or_assign(name, describe(function)).first->second;
}

// --- Before and after an operator --------------------------------------------

struct Running : at::ObserverContext {
  Operator* op = nullptr;
  c10::SmallVector<VersionBefore, 1> versions;
  Given given;
};

void add_version(Running& running, const c10::IValue& value) {
  const auto add = [&](const at::Tensor& tensor) {
    if (tensor.defined()) {
      const auto& counter = tensor.unsafeGetTensorImpl()->version_counter();
      if (counter.enabled()) {
        running.versions.push_back({counter, counter.current_version()});
      }
    }
  };
  if (value.isTensor()) {
    add(value.toTensor());
  } else if (value.isTensorList()) {
    for (const at::Tensor& tensor : value.toTensorVector()) {
      add(tensor);
    }
  }
}

/// Whether autograd has had its turn: what runs now is a part of an operator.
bool is_below_autograd() {
  return c10::impl::tls_local_dispatch_key_set().excluded_.has(
             c10::DispatchKey::AutogradOther) &&
      !c10::InferenceMode::is_enabled();
}

void stop_observing();

std::unique_ptr<at::ObserverContext> operator_begins(
    const at::RecordFunction& function) {
  if (!torch::autograd::AnomalyMode::is_enabled()) {
    stop_observing();
    return nullptr;
  }
  if (is_below_autograd()) {
    return nullptr;
  }
  Operator& op = operator_of(function);
  if (!op.has_schema) {
    return nullptr;
  }
  const auto arguments = function.inputs();
  const bool may_cut =
      !op.passes_grad || op.has_cut || !c10::GradMode::is_enabled();
  Given given = look_at(arguments, may_cut);
  if (op.changes.empty() && given.cuts.empty() &&
      !(given.requires_grad && may_cut)) {
    return nullptr;
  }
  auto running = std::make_unique<Running>();
  running->op = &op;
  running->given = std::move(given);
  for (const std::uint32_t position : op.changes) {
    if (position < arguments.size()) {
      add_version(*running, arguments[position]);
    }
  }
  return running;
}

void operator_ends(
    const at::RecordFunction& function,
    at::ObserverContext* context) {
  if (context == nullptr) {
    return;
  }
  auto& running = static_cast<Running&>(*context);
  Operator& op = *running.op;
  for (const VersionBefore& before : running.versions) {
    note_change(before, op.name);
  }
  const bool had_grad = running.given.requires_grad;
  if (!had_grad && running.given.cuts.empty()) {
    return;
  }
  const bool has_cut = follow(running.given, function.outputs(), op.name);
  if (had_grad && c10::GradMode::is_enabled()) {
    op.passes_grad |= !has_cut;
    op.has_cut |= has_cut;
  }
}

// --- On and off --------------------------------------------------------------

std::atomic<bool> only_notes = false;
std::atomic<bool> observing = false;
std::atomic<at::CallbackHandle> callback = at::INVALID_CALLBACK_HANDLE;

void stop_observing() {
  const at::CallbackHandle handle =
      callback.exchange(at::INVALID_CALLBACK_HANDLE);
  if (handle != at::INVALID_CALLBACK_HANDLE) {
    at::removeCallback(handle);
    observing = false;
  }
}

} // namespace

bool notes_only() {
  return only_notes;
}

void observe_operators() {
  if (only_notes || observing.exchange(true)) {
    return;
  }
  callback = at::addGlobalCallback(
      at::RecordFunctionCallback(operator_begins, operator_ends)
          .needsInputs(true)
          .needsOutputs(true)
          .scopes({at::RecordScope::FUNCTION}));
}

PyObject* py_note_only(PyObject*, PyObject* on) {
  HANDLE_TH_ERRORS
  const int is_true = PyObject_IsTrue(on);
  check_status(is_true);
  const bool before = only_notes.exchange(is_true != 0);
  if (is_true != 0) {
    stop_observing();
  }
  return PyBool_FromLong(before);
  END_HANDLE_TH_ERRORS
}

PyObject* py_observe_operators(PyObject*, PyObject*) {
  HANDLE_TH_ERRORS
  observe_operators();
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

} // namespace torch_ext
