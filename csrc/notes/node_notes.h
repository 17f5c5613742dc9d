// SPDX-License-Identifier: BSD-3-Clause
// What a node that is made in anomaly mode notes besides its stack.
#pragma once

#include <compat.h>
#include <notes/lazy_traceback.h>

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace torch_ext {

/// A node's metadata as our engine makes it.
class NodeNotes final : public compat::PythonMetadata {
 public:
  /// `has_stack` says that a node is being made now, most likely, whose stack
  /// can be stored before anybody has asked for it: so the GIL is needed only
  /// once. If that fails, nothing is stored. Needs the GIL.
  explicit NodeNotes(bool has_stack) noexcept;
  ~NodeNotes() override;
  NodeNotes(const NodeNotes&) = delete;
  NodeNotes& operator=(const NodeNotes&) = delete;

  /// Does nothing if the stack is stored already.
  void store_stack() override;
  void print_stack(const std::string& current_node_name) override;
  void assign_parent(const compat::NodePtr& parent_node) override;

  /// How many backwards had begun when the node was made.
  std::uint32_t made_in = 0;
  /// The number of the backward that freed what the node had saved, counted
  /// from 1; 0 if none has.
  std::atomic<std::uint32_t> freed_by = 0;
  /// The number of the backward that looked at the node last.
  std::uint32_t seen_by = 0;
  /// Where values that the node was made from had left a graph: numbers of
  /// cuts. Written by the thread that makes the node, before it is handed out.
  std::vector<std::uint32_t> cuts;
  /// What check_saved remembers; null if nothing.
  std::shared_ptr<void> saved_sums;

 private:
  /// Makes the dict if there was no memory for it. Needs the GIL. Throws.
  void need_dict();
  /// Takes over a reference, and drops the one that was there.
  void replace_traceback(LazyTraceback* traceback);

  /// The traceback in the dict, if we have put one there; owned.
  LazyTraceback* traceback_ = nullptr;
  /// Whether the stack was stored before anybody asked, and nobody has yet.
  bool is_early_ = false;
};

/// Notes for a node that is being made. Called with or without the GIL.
std::unique_ptr<NodeNotes> make_notes();

/// The node behind a grad_fn; null if there is none, or if `object` is none.
compat::NodePtr node_of_object(PyObject* object);

/// Whether tensor.grad_fn() would make the tensor a new node, or refuse to: it is
/// a view, and its base was changed.
bool awaits_node(const at::Tensor& tensor);

/// Node's own mutex, which guards what a node has saved, and is locked while it
/// runs.
std::mutex& mutex_of(torch::autograd::Node& node);

/// A node's notes; null if it was not made while noting. Makes none.
NodeNotes* notes_of(torch::autograd::Node& node);

/// notes_of(node): (made_in, freed_by), or None.
PyObject* py_notes_of(PyObject* module, PyObject* node);

} // namespace torch_ext
