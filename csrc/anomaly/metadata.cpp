// SPDX-License-Identifier: BSD-3-Clause
// What a node remembers in anomaly mode: where it was made, and by which
// backward.
#include <anomaly/evidence.h>
#include <anomaly/python_modules.h>
#include <compat.h>
#include <notes/metadata_dict.h>
#include <notes/operators.h>
#include <python/error.h>
#include <python/gil.h>
#include <python/names.h>

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/python_anomaly_mode.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/python_variable.h>

#include <exception>
#include <stdexcept>
#include <string>

// torch's own, defined a second time: docs/architecture.md says why.
namespace torch::autograd {

namespace {

using torch_ext::check_status;
using torch_ext::checked;
using torch_ext::Gil;
using torch_ext::Ref;

/// An item of a metadata dict; null if there is none.
Ref get_item(PyObject* dict, const char* key) {
  Ref name = checked(PyUnicode_FromString(key));
  return torch_ext::find_item(dict, name.get());
}

std::string to_string(PyObject* text) {
  const char* chars = PyUnicode_AsUTF8(text);
  if (chars == nullptr) {
    torch_ext::throw_python_error();
  }
  return chars;
}

/// The Python exception that C++ is handling; null if it handles one of C++.
Ref exception_in_flight() {
  std::exception_ptr current = std::current_exception();
  if (!current) {
    return Ref();
  }
  try {
    std::rethrow_exception(current);
  } catch (python_error& error) {
    // What C++ code has raised may still be a type and a text. The engine
    // rethrows what is in `error` now.
    PyErr_NormalizeException(&error.type, &error.value, &error.traceback);
    return Ref::share(error.value);
  } catch (...) {
    return Ref();
  }
}

/// Calls torch_ext's report on the failure. Null, with an exception set, if it
/// raises.
Ref call_record(
    PyObject* metadata,
    const std::string& node_name,
    const torch_ext::Evidence& evidence) {
  Ref exception = exception_in_flight();
  Ref kept =
      evidence.node ? torch_ext::to_python(evidence) : Ref::share(Py_None);
  Ref module = checked(PyImport_ImportModule(torch_ext::kFailuresModule));
  return Ref::steal(PyObject_CallMethod(
      module.get(),
      "record",
      "OsOO",
      metadata,
      node_name.c_str(),
      exception ? exception.get() : Py_None,
      kept.get()));
}

/// Hands the failure to torch_ext's report, whose own errors must not hide it.
void report(
    PyObject* metadata,
    const std::string& node_name,
    const torch_ext::Evidence& evidence) {
  Ref result;
  try {
    result = call_record(metadata, node_name, evidence);
  } catch (python_error& error) {
    error.restore();
  }
  if (!result) {
    PyErr_WriteUnraisable(metadata);
  }
}

/// Prints where the node was made, and its parents.
void print_stacks(
    PyObject* dict,
    const std::string& node_name,
    const torch_ext::Evidence& evidence) {
  constexpr const char* kTrace = PyAnomalyMetadata::ANOMALY_TRACE_KEY;
  constexpr const char* kParent = PyAnomalyMetadata::ANOMALY_PARENT_KEY;
  if (!PyDict_Check(dict)) {
    throw std::runtime_error("Anomaly metadata is not a python dictionary.");
  }
  report(dict, node_name, evidence);
  if (torch_ext::notes_only()) {
    return;
  }
  _print_stack(get_item(dict, kTrace).get(), node_name, false);
  // A parent is the node whose backward made this one. A node without a parent
  // was made by forward.
  Ref parent = get_item(dict, kParent);
  while (parent && torch_ext::compat::has_node(parent.get())) {
    Ref metadata = checked(PyObject_GetAttrString(parent.get(), "metadata"));
    // By the type: a ctx may have an attribute of its own that is called name.
    Ref name = checked(PyObject_CallMethodOneArg(
        reinterpret_cast<PyObject*>(Py_TYPE(parent.get())),
        torch_ext::names.name,
        parent.get()));
    _print_stack(
        get_item(metadata.get(), kTrace).get(), to_string(name.get()), true);
    parent = get_item(metadata.get(), kParent);
  }
}

} // namespace

void PyAnomalyMetadata::store_stack() {
  Gil gil;
  torch_ext::persisting([&] { torch_ext::put_stack(dict()); });
}

void PyAnomalyMetadata::assign_parent(
    const torch_ext::compat::NodePtr& parent_node) {
  if (!parent_node) {
    return;
  }
  Gil gil;
  torch_ext::persisting([&] {
    Ref parent = checked(functionToPyObject(parent_node));
    check_status(
        PyDict_SetItemString(dict(), ANOMALY_PARENT_KEY, parent.get()));
  });
}

void PyAnomalyMetadata::print_stack(const std::string& current_node_name) {
  Gil gil;
  // Nothing may be thrown from here: it would hide the failure, and leave the
  // engine's thread in a state in which the next failures end the process.
  try {
    print_stacks(dict(), current_node_name, torch_ext::take_evidence(this));
    return;
  } catch (python_error& error) {
    error.restore();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  PyErr_WriteUnraisable(dict());
}

void _print_stack(
    PyObject* stack,
    const std::string& current_node_name,
    bool is_parent) {
  if (stack == nullptr) {
    TORCH_WARN(
        "Error detected in ",
        current_node_name,
        ". No forward pass information available. Enable detect anomaly "
        "during forward pass for more information.");
    return;
  }
  Ref nothing = checked(PyUnicode_FromString(""));
  Ref text = checked(PyUnicode_Join(nothing.get(), stack));
  if (is_parent) {
    TORCH_WARN(
        "\n\nPrevious calculation was induced by ",
        current_node_name,
        ". Traceback of forward call that induced the previous calculation:\n",
        to_string(text.get()));
  } else {
    TORCH_WARN(
        "Error detected in ",
        current_node_name,
        ". Traceback of forward call that caused the error:\n",
        to_string(text.get()));
  }
}

} // namespace torch::autograd
