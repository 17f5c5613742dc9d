// SPDX-License-Identifier: BSD-3-Clause
// What a node had saved, kept for as long as the engine checks it for NaN.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/record_function.h>
#include <compat.h>
#include <python/ref.h>

#include <optional>
#include <vector>

namespace torch_ext {

/// Around a backward: while it lives, what a node had saved outlives the node's
/// own release until the next node begins on the same thread, which is after
/// the engine's NaN check of that node. Does nothing unless the check is on.
class KeepEvidence {
 public:
  KeepEvidence();
  ~KeepEvidence();
  KeepEvidence(const KeepEvidence&) = delete;
  KeepEvidence& operator=(const KeepEvidence&) = delete;

 private:
  bool on_;
  std::optional<at::CallbackHandle> callback_;
};

/// A node, and what it had saved in the order of its class's attributes. A
/// tensor is undefined if there is none, or if a hook would have to unpack it.
struct Evidence {
  compat::NodePtr node;
  std::vector<at::Tensor> saved;
};

/// What is kept of the node with this metadata, and no longer from then on; no
/// node if nothing is.
Evidence take_evidence(const torch::autograd::AnomalyMetadata* metadata);

/// What a node has saved, as in Evidence. Runs no hook. Throws if a tensor was
/// changed in place since, or can't be unpacked so.
std::vector<at::Tensor> saved_by(const compat::NodePtr& node);

/// (node, what it had saved), with None for a tensor that isn't known.
Ref to_python(const Evidence& evidence);

/// Keeps what was seen of a node, for take_evidence() on this thread.
void keep_evidence(Evidence evidence);

} // namespace torch_ext
