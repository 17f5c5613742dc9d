// SPDX-License-Identifier: BSD-3-Clause
#include <notes/operators.h>

#include <notes/backward_calls.h>
#include <notes/changes.h>
#include <notes/cuts.h>
#include <notes/nan_check.h>
#include <python/error.h>
#include <python/gil.h>

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/record_function.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/SmallVector.h>
#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/graph_task.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

namespace torch_ext {

namespace {

using torch::autograd::AnomalyMode;

// A key that torch leaves to others. An operator without a kernel of ours falls
// through it at no cost.
constexpr c10::DispatchKey kKey = c10::DispatchKey::DeferredInit;

/// Whether autograd has had its turn: what runs now is a part of an operator.
bool is_below_autograd() {
  return c10::impl::tls_local_dispatch_key_set().excluded_.has(
             c10::DispatchKey::AutogradOther) &&
      !c10::InferenceMode::is_enabled();
}

/// Whether this thread runs a node's backward. What that computes is no graph,
/// unless somebody asks for one.
bool is_in_backward() {
  return torch::autograd::get_current_graph_task_id() != -1;
}

// --- Following all operators -------------------------------------------------

/// How many on this thread want it.
int& followers() {
  thread_local int followers = 0;
  return followers;
}

/// Whether the values of what it is given are in what an operator returns.
bool values_flow(const std::string& name) {
  static const std::unordered_set<std::string> none = {
      "aten::new_empty",
      "aten::new_empty_strided",
      "aten::new_full",
      "aten::new_ones",
      "aten::new_zeros"};
  constexpr const char* kLike = "_like";
  return name.rfind(kLike) != name.size() - std::strlen(kLike) &&
      none.count(name) == 0;
}

void remove_followers();

struct Running : at::ObserverContext {
  explicit Running(Given&& given) : given(std::move(given)) {}
  Given given;
};

std::unique_ptr<at::ObserverContext> operator_begins(
    const at::RecordFunction& function) {
  if (!AnomalyMode::is_enabled()) {
    remove_followers();
    return nullptr;
  }
  if (is_below_autograd() || is_in_backward() || !function.operator_name()) {
    return nullptr;
  }
  Given given = look_at(function.inputs());
  return (given.requires_grad || !given.cuts.empty()) &&
          values_flow(function.name())
      ? std::make_unique<Running>(std::move(given))
      : nullptr;
}

void operator_ends(
    const at::RecordFunction& function,
    at::ObserverContext* context) {
  if (context != nullptr && std::uncaught_exceptions() == 0) {
    follow(
        static_cast<Running*>(context)->given,
        c10::ArrayRef<const c10::IValue>(
            function.outputs().data(), function.outputs().size()),
        function.name());
  }
}

/// Takes our callbacks out of this thread's. The engine may have put others in
/// the place of those that were added.
void remove_followers() {
  followers() = 0;
  std::vector<at::CallbackHandle> ours;
  for (const auto& entry :
       at::get_record_function_tls_().sorted_tls_callbacks_) {
    if (entry.callback_.start() == operator_begins) {
      ours.push_back(entry.handle_);
    }
  }
  for (const at::CallbackHandle handle : ours) {
    at::removeCallback(handle);
  }
}

void add_follower() {
  if (followers()++ == 0) {
    at::addThreadLocalCallback(
        at::RecordFunctionCallback(operator_begins, operator_ends)
            .needsInputs(true)
            .needsOutputs(true)
            .scopes({at::RecordScope::FUNCTION}));
  }
}

// --- Operators that change a tensor, or may cut the graph --------------------

/// Whether an operator returns what doesn't require grad though values flow
/// into it, as a rule or by its arguments.
bool may_cut(const std::string& name) {
  static const std::unordered_set<std::string> names = {
      "aten::_local_scalar_dense",
      "aten::_to_copy",
      "aten::_unique2",
      "aten::allclose",
      "aten::argmax",
      "aten::argmin",
      "aten::argsort",
      "aten::bincount",
      "aten::bucketize",
      "aten::count_nonzero",
      "aten::detach",
      "aten::detach_",
      "aten::detach_copy",
      "aten::eq",
      "aten::equal",
      "aten::ge",
      "aten::gt",
      "aten::histc",
      "aten::isfinite",
      "aten::isinf",
      "aten::isnan",
      "aten::le",
      "aten::logical_and",
      "aten::logical_not",
      "aten::logical_or",
      "aten::logical_xor",
      "aten::lt",
      "aten::multinomial",
      "aten::ne",
      "aten::nonzero",
      "aten::searchsorted",
      "aten::signbit",
      "aten::unique_consecutive",
      "aten::unique_dim"};
  return names.count(name) != 0;
}

using Versions = c10::SmallVector<VersionBefore, 1>;

void add_version(Versions& versions, const c10::IValue& value) {
  const auto add = [&](const at::Tensor& tensor) {
    if (tensor.defined()) {
      const auto& counter = tensor.unsafeGetTensorImpl()->version_counter();
      if (counter.enabled()) {
        versions.push_back({counter, counter.current_version()});
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

Versions versions_of_changed(
    const c10::FunctionSchema& schema,
    c10::ArrayRef<c10::IValue> arguments) {
  Versions versions;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto* alias = schema.arguments()[i].alias_info();
    if (alias != nullptr && alias->isWrite()) {
      add_version(versions, arguments[i]);
    }
  }
  return versions;
}

void observe_thread(bool on) {
  c10::impl::tls_set_dispatch_key_included(kKey, on);
}

/// Our kernel: runs the operator as if it were not there, and notes what that
/// did.
void observed(
    const c10::OperatorHandle& op,
    c10::DispatchKeySet keys,
    torch::jit::Stack* stack) {
  const c10::DispatchKeySet rest =
      keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kKey);
  const bool is_on = AnomalyMode::is_enabled();
  if (!is_on) {
    observe_thread(false);
  }
  if (!is_on || is_below_autograd()) {
    op.redispatchBoxed(rest, stack);
    return;
  }
  const c10::FunctionSchema& schema = op.schema();
  const auto arguments = torch::jit::last(*stack, schema.arguments().size());
  const Versions versions = versions_of_changed(schema, arguments);
  Given given;
  if (followers() == 0 && !is_in_backward() && may_cut(schema.name())) {
    given = look_at(arguments);
  }
  op.redispatchBoxed(rest, stack);
  for (const VersionBefore& before : versions) {
    note_change(before, schema.name());
  }
  if (given.requires_grad || !given.cuts.empty()) {
    follow(
        given,
        torch::jit::last(*stack, schema.returns().size()),
        schema.name());
  }
}

/// Operators that have been registered since somebody last looked.
class NewOperators : public c10::OpRegistrationListener {
 public:
  void onOperatorRegistered(const c10::OperatorHandle& op) override {
    const std::lock_guard lock(mutex());
    names().push_back(op.operator_name());
  }
  void onOperatorDeregistered(const c10::OperatorHandle&) override {}

  static std::vector<c10::OperatorName> take() {
    const std::lock_guard lock(mutex());
    return std::exchange(names(), {});
  }

 private:
  // Never destroyed, as the dispatcher.
  static std::mutex& mutex() {
    static auto* mutex = new std::mutex;
    return *mutex;
  }
  static std::vector<c10::OperatorName>& names() {
    static auto* names = new std::vector<c10::OperatorName>;
    return *names;
  }
};

/// Holds a registration to the process's end.
void keep(c10::RegistrationHandleRAII&& registration) {
  new c10::RegistrationHandleRAII(std::move(registration));
}

/// Gives our kernel to each operator that needs it.
void add_kernels() {
  auto& dispatcher = c10::Dispatcher::singleton();
  static const bool listening = [&] {
    keep(dispatcher.registerFallback(
        kKey, c10::KernelFunction::makeFallthrough(), "torch_ext"));
    // It is told of all that exist, too.
    keep(dispatcher.addRegistrationListener(std::make_unique<NewOperators>()));
    return true;
  }();
  static_cast<void>(listening);
  for (const c10::OperatorName& name : NewOperators::take()) {
    const auto op = dispatcher.findSchema(name);
    if (!op) {
      continue; // it is gone again
    }
    auto kernel = nan_check_kernel(*op, kKey, observed);
    if (!kernel &&
        (op->schema().is_mutable() || may_cut(op->schema().name()))) {
      kernel = c10::KernelFunction::makeFromBoxedFunction<&observed>();
    }
    if (kernel) {
      keep(dispatcher.registerImpl(
          name, kKey, std::move(*kernel), std::nullopt, nullptr, "torch_ext"));
    }
  }
}

std::atomic<bool> only_notes = false;

/// Whether torch.compile was used in this process: its guards look at keys.
bool has_compiled() {
  Gil gil;
  Ref module = Ref::steal(PyImport_ImportModule("torch_ext._compat"));
  Ref answer = module
      ? Ref::steal(PyObject_CallMethod(module.get(), "has_compiled", nullptr))
      : Ref();
  PyErr_Clear();
  return !answer || answer.get() == Py_True;
}

} // namespace

bool notes_only() {
  return only_notes;
}

bool observes_operators() {
  return c10::impl::tls_is_dispatch_key_included(kKey);
}

bool observe_operators() {
  if (observes_operators()) {
    return true;
  }
  try {
    add_kernels();
  } catch (const std::exception& error) {
    TORCH_WARN_ONCE(
        "torch_ext can't look at operators, so its reports don't know what "
        "changed a tensor: ",
        error.what());
    return false;
  }
  observe_thread(true);
  return true;
}

void observe_operators_on_this_thread() {
  // Asked for each node, so it doesn't look for the compiler each time.
  thread_local std::uint32_t refused_in = UINT32_MAX;
  if (only_notes || observes_operators() || refused_in == backwards_begun()) {
    return;
  }
  if (has_compiled() || !observe_operators()) {
    refused_in = backwards_begun();
  }
}

PyObject* py_observes_operators(PyObject*, PyObject*) {
  return PyBool_FromLong(observes_operators());
}

PyObject* py_note_only(PyObject*, PyObject* on) {
  HANDLE_TH_ERRORS
  const int is_true = PyObject_IsTrue(on);
  check_status(is_true);
  return PyBool_FromLong(only_notes.exchange(is_true != 0));
  END_HANDLE_TH_ERRORS
}

PyObject* py_observe_operators(PyObject*, PyObject* on) {
  HANDLE_TH_ERRORS
  const int is_true = PyObject_IsTrue(on);
  check_status(is_true);
  const bool before = observes_operators();
  if (is_true != 0) {
    observe_operators();
  } else {
    observe_thread(false);
  }
  return PyBool_FromLong(before);
  END_HANDLE_TH_ERRORS
}

PyObject* py_follow_operators(PyObject*, PyObject* on) {
  HANDLE_TH_ERRORS
  const int is_true = PyObject_IsTrue(on);
  check_status(is_true);
  if (is_true != 0) {
    add_follower();
  } else if (followers() > 1) {
    --followers();
  } else {
    remove_followers();
  }
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

} // namespace torch_ext
