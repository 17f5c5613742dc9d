// SPDX-License-Identifier: BSD-3-Clause
#include <notes/node_notes.h>

#include <notes/backward_calls.h>
#include <python/error.h>
#include <python/gil.h>

#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/python_function.h>

#include <exception>
#include <optional>
#include <typeinfo>
#include <utility>

namespace torch_ext {

namespace {

using torch::autograd::AnomalyMetadata;
using torch::autograd::Node;

/// Node's metadata, which metadata() would make if there is none.
struct MetadataOf : Node {
  static AnomalyMetadata* of(Node& node) {
    return (node.*(&MetadataOf::anomaly_metadata_)).get();
  }
};

struct MutexOf : Node {
  static std::mutex& of(Node& node) {
    return node.*(&MutexOf::mutex_);
  }
};

} // namespace

std::mutex& mutex_of(Node& node) {
  return MutexOf::of(node);
}

void NodeNotes::store_stack() {
  if (!std::exchange(is_early, false)) {
    PyAnomalyMetadata::store_stack();
  }
}

void NodeNotes::store_early() noexcept {
  try {
    PyAnomalyMetadata::store_stack();
    is_early = true;
  } catch (const std::exception&) {
    // torch's own call of store_stack() tries again, and may throw.
    PyErr_Clear();
  }
}

void NodeNotes::print_stack(const std::string& current_node_name) {
  if (std::exchange(is_early, false)) {
    // The node was made outside of the mode, and these notes to fail with.
    const Gil gil;
    if (PyDict_DelItemString(dict(), ANOMALY_TRACE_KEY) != 0) {
      PyErr_Clear();
    }
  }
  PyAnomalyMetadata::print_stack(current_node_name);
}

std::unique_ptr<NodeNotes> make_notes() {
  // An operator of torch's makes its node without the GIL. Who has it may be
  // Python code that reads the metadata of a node made long ago.
  const bool is_making = torch::autograd::AnomalyMode::is_enabled() &&
      Py_IsInitialized() != 0 && !has_gil();
  std::optional<Gil> gil;
  if (is_making) {
    gil.emplace();
  }
  auto notes = std::make_unique<NodeNotes>();
  notes->made_in = backwards_begun();
  if (is_making) {
    notes->store_early();
  }
  return notes;
}

compat::NodePtr node_of_object(PyObject* object) {
  if (PyObject_TypeCheck(object, &THPFunctionType)) {
    return compat::node_of(reinterpret_cast<THPFunction*>(object)->cdata);
  }
  if (torch::autograd::THPCppFunction_Check(object)) {
    return reinterpret_cast<torch::autograd::THPCppFunction*>(object)->cdata;
  }
  return {};
}

NodeNotes* notes_of(Node& node) {
  AnomalyMetadata* metadata = MetadataOf::of(node);
  return metadata != nullptr && typeid(*metadata) == typeid(NodeNotes)
      ? static_cast<NodeNotes*>(metadata)
      : nullptr;
}

PyObject* py_notes_of(PyObject*, PyObject* object) {
  HANDLE_TH_ERRORS
  const compat::NodePtr node = node_of_object(object);
  NodeNotes* notes = node ? notes_of(*node) : nullptr;
  if (notes == nullptr) {
    Py_RETURN_NONE;
  }
  return Py_BuildValue(
      "II", notes->made_in, notes->freed_by.load(std::memory_order_relaxed));
  END_HANDLE_TH_ERRORS
}

} // namespace torch_ext
