// SPDX-License-Identifier: BSD-3-Clause
#include <anomaly/reporting_engine.h>

#include <anomaly/checks.h>
#include <anomaly/deferred.h>
#include <anomaly/evidence.h>
#include <anomaly/python_modules.h>
#include <notes/backward_calls.h>
#include <python/call.h>
#include <python/error.h>
#include <python/gil.h>
#include <python/immortal.h>
#include <python/method.h>
#include <python/tensor.h>

#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/variable.h>

#include <cstdint>

namespace torch_ext {

namespace {

// torch's run_backward, a method descriptor.
Immortal torch_run_backward;

/// Shows the exception that is set to the report, whose own errors must not
/// hide it, and leaves it set. `begun`: how many backwards had begun when this
/// one had.
void finish_report(PyObject* roots, PyObject* gradients, std::uint32_t begun) {
  ErrorAside raised;
  Ref module = Ref::steal(PyImport_ImportModule(kFailuresModule));
  Ref result = module ? Ref::steal(PyObject_CallMethod(
                            module.get(),
                            "finish",
                            "OOOI",
                            raised.normalized(),
                            roots,
                            gradients,
                            begun))
                      : Ref();
  if (!result) {
    PyErr_WriteUnraisable(roots);
  }
}

/// Loads what a report is made by, as a backward begins: in the middle of a
/// failure the import could fail too, at the limit of recursion for example.
/// If it fails here, the report will say so, if there is one.
void load_report() {
  if (Ref::steal(PyImport_ImportModule(kFailuresModule))) {
    return;
  }
  if (PyErr_ExceptionMatches(PyExc_Exception) == 0) {
    throw_python_error(); // the user wants to stop
  }
  PyErr_Clear();
}

/// Whether there is more to check than NaN in a backward with this many
/// arguments by position.
bool checks_on(Py_ssize_t count) {
  return (checks().loss || checks().inf || checks().saved ||
          checks().deferred) &&
      count > 1 && torch::autograd::AnomalyMode::is_enabled();
}

/// Throws, with a report, if a root or its gradient is NaN already.
void refuse_bad_roots(PyObject* roots, PyObject* gradients) {
  Ref module = checked(PyImport_ImportModule(kFailuresModule));
  checked(PyObject_CallMethod(
      module.get(),
      "refuse_bad_roots",
      "OOO",
      roots,
      gradients,
      checks().inf ? Py_True : Py_False));
}

/// Throws, with a report, if a gradient that backward returns is not finite.
void refuse_bad_results(PyObject* results, PyObject* const* args) {
  Ref module = checked(PyImport_ImportModule(kFailuresModule));
  checked(PyObject_CallMethod(
      module.get(),
      "refuse_bad_results",
      "OOOO",
      results,
      args[4],
      args[0],
      args[1]));
}

/// A backward with more checks than that for NaN, on arguments as
/// torch.autograd passes them: roots, gradients, two flags, inputs.
Ref run_checked(
    CallArguments& all,
    PyObject* const* args,
    Py_ssize_t count,
    PyObject* keywords) {
  if (checks().loss) {
    refuse_bad_roots(args[0], args[1]);
  }
  Ref results;
  {
    const KeepEvidence keep_evidence;
    const CheckedGraph checked_graph(args[0]);
    DeferredCheck deferred;
    results = all.call(torch_run_backward, keywords);
    deferred.look();
  }
  // None if the gradients are accumulated.
  if (checks().inf && count > 4 && PyTuple_Check(results.get())) {
    refuse_bad_results(results.get(), args);
  }
  return results;
}

PyObject* run_backward(
    PyObject* self,
    PyObject* const* args,
    Py_ssize_t count,
    PyObject* keywords) {
  std::uint32_t begun = 0;
  PyObject* result = to_slot([&] {
    const Py_ssize_t named =
        keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
    CallArguments all;
    all.add(self);
    all.add(args, args + count + named);
    note_backward(args, count);
    begun = backwards_begun();
    if (torch::autograd::AnomalyMode::is_enabled()) {
      load_report();
    }
    if (checks_on(count)) {
      return run_checked(all, args, count, keywords);
    }
    const KeepEvidence keep_evidence;
    return all.call(torch_run_backward, keywords);
  });
  // torch passes the roots and their gradients by position.
  if (result == nullptr && count > 1 &&
      torch::autograd::AnomalyMode::is_enabled()) {
    finish_report(args[0], args[1], begun);
  }
  return result;
}

PyMethodDef engine_methods[] = {
    {"run_backward",
     as_method(run_backward),
     METH_FASTCALL | METH_KEYWORDS,
     nullptr},
    {nullptr, nullptr, 0, nullptr}};

PyTypeObject ReportingEngineType{};

void init_type(PyTypeObject* base) {
  if (ReportingEngineType.tp_dict != nullptr) {
    return;
  }
  torch_run_backward.set(checked(PyObject_GetAttrString(
      reinterpret_cast<PyObject*>(base), "run_backward")));
  PyTypeObject& type = ReportingEngineType;
  Py_SET_REFCNT(reinterpret_cast<PyObject*>(&type), 1);
  type.tp_name = base->tp_name;
  type.tp_flags = Py_TPFLAGS_DEFAULT;
  type.tp_base = base;
  type.tp_methods = engine_methods;
  check_status(PyType_Ready(&type));
}

} // namespace

PyObject* py_make_reporting_engine(PyObject*, PyObject* engine) {
  HANDLE_TH_ERRORS
  init_type(Py_TYPE(engine));
  if (!PyObject_TypeCheck(engine, ReportingEngineType.tp_base)) {
    raise(
        PyExc_TypeError,
        "expected torch's engine, got %s",
        Py_TYPE(engine)->tp_name);
  }
  return PyObject_CallNoArgs(reinterpret_cast<PyObject*>(&ReportingEngineType));
  END_HANDLE_TH_ERRORS
}

PyObject* py_node_of_root(PyObject*, PyObject* tensor) {
  HANDLE_TH_ERRORS
  const at::Tensor root = THPVariable_Unpack(require_tensor(tensor));
  torch::autograd::Edge edge;
  {
    // This takes locks of torch's.
    NoGil no_gil;
    edge = torch::autograd::impl::gradient_edge(root);
  }
  return torch::autograd::functionToPyObject(edge.function);
  END_HANDLE_TH_ERRORS
}

} // namespace torch_ext
