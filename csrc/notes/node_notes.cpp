// SPDX-License-Identifier: BSD-3-Clause
#include <notes/node_notes.h>

#include <notes/backward_calls.h>
#include <python/error.h>

#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/python_function.h>

#include <typeinfo>

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

std::unique_ptr<NodeNotes> make_notes() {
  auto notes = std::make_unique<NodeNotes>();
  notes->made_in = backwards_begun();
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
