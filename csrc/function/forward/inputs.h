// SPDX-License-Identifier: BSD-3-Clause
// The tensors among a call's arguments.
#pragma once

#include <compat.h>
#include <cpp/flags.h>
#include <function/forward/arguments.h>

#include <c10/util/SmallVector.h>
#include <torch/csrc/autograd/edge.h>

namespace torch_ext {

/// What a call of apply() has to know of its arguments, from which the tensors
/// are borrowed.
struct Inputs {
  c10::SmallVector<const at::Tensor*, 16> tensors;
  /// For each argument, whether it is a tensor, and whether it requires grad.
  Flags is_tensor;
  Flags requires_grad;
  /// Whether the node is going to run in some backward: grad mode is on and an
  /// input requires grad.
  bool executable = false;
  /// Whether an input has a forward-mode tangent.
  bool has_tangent = false;
  /// Whether an input is the wrapper of a torch.func transform, which must have
  /// ended: see unwrap_dead().
  bool has_wrapper = false;

  /// Throws TypeError for an argument that only claims to be a tensor.
  explicit Inputs(const Arguments& arguments);

  bool contains(const at::Tensor& tensor) const;
  torch::autograd::edge_list edges() const;
};

/// Replaces each tensor that is the wrapper of a torch.func transform which has
/// ended by the tensor that it wraps.
Arguments unwrap_dead(const Arguments& arguments);

} // namespace torch_ext
