// SPDX-License-Identifier: BSD-3-Clause
#include <notes/seen_calls.h>

#include <compat.h>
#include <python/error.h>
#include <python/method.h>
#include <python/names.h>
#include <python/tuple.h>

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/python_function.h>
#include <torch/csrc/autograd/python_variable.h>

#include <atomic>
#include <stdexcept>
#include <utility>
#include <vector>

namespace torch_ext {

namespace {

// A key that torch leaves to others, above all that it runs operators through.
constexpr c10::DispatchKey kCallsKey =
    c10::DispatchKey::TESTING_ONLY_GenericMode;

std::atomic<LookAtCall> looking = nullptr;

/// Whether the thread's first operator began before it was seen.
bool& has_missed() {
  thread_local bool missed = false;
  return missed;
}

void see_thread(bool on) {
  c10::impl::tls_set_dispatch_key_included(kCallsKey, on);
}

bool is_thread_seen() {
  return c10::impl::tls_is_dispatch_key_included(kCallsKey);
}

void look_at(LookAtCall look, const SeenCall& call) {
  const c10::impl::ExcludeDispatchKeyGuard unseen(kCallsKey);
  look(call);
}

// --- Operators ---------------------------------------------------------------

/// Whether what runs now is a part of an operator that autograd records.
bool is_part_of_recorded() {
  return c10::impl::tls_local_dispatch_key_set().excluded_.has(
      c10::DispatchKey::AutogradOther);
}

/// Our kernel for all operators: runs them as if it were not there.
void seen(
    const c10::OperatorHandle& op,
    c10::DispatchKeySet keys,
    torch::jit::Stack* stack) {
  const c10::DispatchKeySet rest =
      keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kCallsKey);
  const LookAtCall look = looking;
  if (look == nullptr) {
    see_thread(false);
  }
  if (look == nullptr || is_part_of_recorded() || !at::GradMode::is_enabled() ||
      !torch::autograd::AnomalyMode::is_enabled()) {
    op.redispatchBoxed(rest, stack);
    return;
  }
  const c10::FunctionSchema& schema = op.schema();
  const auto given = torch::jit::last(*stack, schema.arguments().size());
  const std::vector<c10::IValue> arguments(given.begin(), given.end());
  if (std::exchange(has_missed(), false)) {
    look_at(look, {nullptr, {}, arguments});
  }
  op.redispatchBoxed(rest, stack);
  // Of an operator that returns nothing, what it has changed.
  const auto results = torch::jit::last(*stack, schema.returns().size());
  look_at(
      look,
      {&schema,
       arguments,
       results.empty() && schema.is_mutable() ? arguments : results});
}

void add_fallback() {
  // Held to the process's end.
  static auto* registration = new c10::RegistrationHandleRAII(
      c10::Dispatcher::singleton().registerFallback(
          kCallsKey,
          c10::KernelFunction::makeFromBoxedFunction<&seen>(),
          "torch_ext"));
  static_cast<void>(registration);
}

// --- torch's own Functions ---------------------------------------------------

// What runs _FunctionBase.apply, as torch has it.
std::atomic<PyCFunction> torchs_apply = nullptr;

template <typename Signature>
Signature torchs_apply_as() {
  return reinterpret_cast<Signature>(
      reinterpret_cast<void (*)()>(torchs_apply.load()));
}

PyObject* saw(PyObject* const* args, Py_ssize_t count, PyObject* object) {
  HANDLE_TH_ERRORS
  Ref result = checked(object);
  see_call(args, count, result.get());
  return result.release();
  END_HANDLE_TH_ERRORS
}

PyObject* seen_by_tuple(PyObject* cls, PyObject* args) {
  return saw(
      items_of(args).data(),
      PyTuple_GET_SIZE(args),
      torchs_apply_as<PyCFunction>()(cls, args));
}

PyObject* seen_by_tuple_and_dict(
    PyObject* cls,
    PyObject* args,
    PyObject* keywords) {
  return saw(
      items_of(args).data(),
      PyTuple_GET_SIZE(args),
      torchs_apply_as<PyCFunctionWithKeywords>()(cls, args, keywords));
}

PyObject* seen_by_vector(
    PyObject* cls,
    PyObject* const* args,
    Py_ssize_t count,
    PyObject* names) {
  return saw(
      args,
      count,
      torchs_apply_as<_PyCFunctionFastWithKeywords>()(cls, args, count, names));
}

/// Ours with the calling convention of torch's; null if that is not known.
PyCFunction seen_apply(int flags) {
  switch (flags & ~METH_CLASS) {
    case METH_VARARGS:
      return seen_by_tuple;
    case METH_VARARGS | METH_KEYWORDS:
      return as_method(seen_by_tuple_and_dict);
    case METH_FASTCALL | METH_KEYWORDS:
      return as_method(seen_by_vector);
    default:
      return nullptr;
  }
}

/// Puts our function under torch's apply, or takes it out again. The method
/// stays the object that it is wherever it is kept: torch 2.15 has it in a
/// second class. No stack shows a call more.
void see_functions(bool on) {
  const Ref apply = find_item(THPFunctionType.tp_dict, names.apply);
  PyMethodDef* method =
      apply && Py_IS_TYPE(apply.get(), &PyClassMethodDescr_Type)
      ? reinterpret_cast<PyMethodDescrObject*>(apply.get())->d_method
      : nullptr;
  PyCFunction ours = method == nullptr ? nullptr : seen_apply(method->ml_flags);
  if (ours == nullptr) {
    throw std::runtime_error(
        "torch_ext can't look at torch's own Functions: it doesn't know how "
        "this torch calls their apply");
  }
  if (torchs_apply == nullptr) {
    torchs_apply = method->ml_meth;
  }
  std::atomic_ref<PyCFunction>(method->ml_meth) =
      on ? ours : torchs_apply.load();
}

void add_tensors(std::vector<c10::IValue>& found, PyObject* object) {
  if (THPVariable_Check(object)) {
    found.emplace_back(THPVariable_Unpack(object));
  }
}

} // namespace

void set_look_at_calls(LookAtCall look) {
  const bool was_seen = calls_are_seen();
  const bool is_seen = look != nullptr;
  if (is_seen) {
    add_fallback();
  }
  if (is_seen != was_seen) {
    see_functions(is_seen);
  }
  looking = look;
  has_missed() = false;
  see_thread(is_seen);
}

bool calls_are_seen() {
  return looking.load(std::memory_order_relaxed) != nullptr;
}

void see_calls_of_thread() {
  if (calls_are_seen() && !is_thread_seen()) {
    see_thread(true);
    has_missed() = true;
  }
}

void see_call(PyObject* const* args, Py_ssize_t count, PyObject* result) {
  const LookAtCall look = looking;
  if (look == nullptr || !at::GradMode::is_enabled() ||
      !torch::autograd::AnomalyMode::is_enabled()) {
    return;
  }
  std::vector<c10::IValue> arguments;
  for (Py_ssize_t i = 0; i < count; ++i) {
    add_tensors(arguments, args[i]);
  }
  std::vector<c10::IValue> results;
  add_tensors(results, result);
  for (Py_ssize_t i = 0; PyTuple_Check(result) && i < PyTuple_GET_SIZE(result);
       ++i) {
    add_tensors(results, PyTuple_GET_ITEM(result, i));
  }
  look_at(look, {nullptr, arguments, results});
}

} // namespace torch_ext
