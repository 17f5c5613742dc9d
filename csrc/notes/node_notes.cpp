// SPDX-License-Identifier: BSD-3-Clause
#include <notes/node_notes.h>

#include <notes/backward_calls.h>
#include <notes/metadata_dict.h>
#include <python/error.h>
#include <python/gil.h>

#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/python_anomaly_mode.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/python_function.h>
#include <torch/csrc/autograd/variable.h>

#include <exception>
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

NodeNotes::NodeNotes(bool has_stack) noexcept {
  try {
    if (has_stack) {
      const MetadataDict made = make_dict_with_stack();
      dict_ = made.dict;
      traceback_ = made.traceback;
      is_early_ = true;
    } else {
      need_dict();
    }
  } catch (const std::exception&) {
    // torch's own call of store_stack() tries again, and may throw.
    PyErr_Clear();
  }
}

NodeNotes::~NodeNotes() {
  if (dict_ != nullptr) {
    give_back({dict_, traceback_});
  }
}

void NodeNotes::need_dict() {
  if (dict_ == nullptr) {
    dict_ = checked(PyDict_New()).release();
  }
}

void NodeNotes::store_stack() {
  if (std::exchange(is_early_, false)) {
    return;
  }
  const Gil gil;
  persisting([&] {
    const bool is_fresh = dict_ == nullptr ||
        (!compat::kFreeThreaded && Py_REFCNT(dict_) == 1 &&
         PyDict_GET_SIZE(dict_) == 0);
    if (!is_fresh) {
      replace_traceback(as_lazy(put_stack(dict_).release()));
      return;
    }
    // One that is used again saves making the traceback, and makes up for the
    // one that is given back.
    const MetadataDict made = make_dict_with_stack();
    const Ref before = Ref::steal(std::exchange(dict_, made.dict));
    replace_traceback(made.traceback);
  });
}

void NodeNotes::replace_traceback(LazyTraceback* traceback) {
  const Ref before = Ref::steal(
      reinterpret_cast<PyObject*>(std::exchange(traceback_, traceback)));
}

void NodeNotes::assign_parent(const compat::NodePtr& parent_node) {
  if (parent_node) {
    const Gil gil;
    persisting([&] { need_dict(); });
    as_torchs().PyAnomalyMetadata::assign_parent(parent_node);
  }
}

void NodeNotes::print_stack(const std::string& current_node_name) {
  if (dict_ == nullptr) {
    return; // there was no memory for it
  }
  if (std::exchange(is_early_, false)) {
    // The node was made outside of the mode, and these notes to fail with.
    const Gil gil;
    if (PyDict_DelItemString(
            dict_, torch::autograd::PyAnomalyMetadata::ANOMALY_TRACE_KEY) !=
        0) {
      PyErr_Clear();
    }
  }
  as_torchs().PyAnomalyMetadata::print_stack(current_node_name);
}

std::unique_ptr<NodeNotes> make_notes() {
  // An operator of torch's makes its node without the GIL. Who has it may be
  // Python code that reads the metadata of a node made long ago.
  const bool is_making =
      torch::autograd::AnomalyMode::is_enabled() && !has_gil();
  const Gil gil;
  auto notes = std::make_unique<NodeNotes>(is_making);
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

bool awaits_node(const at::Tensor& tensor) {
  const auto* view = torch::autograd::impl::get_view_autograd_meta(tensor);
  return view != nullptr && view->has_bw_view() &&
      view->get_attr_version() != tensor._version();
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
