// The tensors among a call's arguments.
#pragma once

#include <compat.h>
#include <function/arguments.h>

#include <c10/util/SmallVector.h>

namespace torch_ext {

/// What a call of apply() has to know of its arguments. The tensors are
/// borrowed from them.
struct Inputs {
  c10::SmallVector<const at::Tensor*, 16> tensors;
  /// For each argument, whether it is a tensor, and whether it requires grad.
  std::vector<bool> is_tensor;
  c10::SmallVector<bool, 32> requires_grad;
  /// Whether the node is going to run in some backward: grad mode is on and an
  /// input requires grad.
  bool executable = false;
  /// Whether an input has a forward-mode tangent.
  bool has_tangent = false;

  /// Throws where an argument's __instancecheck__ raises.
  explicit Inputs(const Arguments& arguments);

  bool contains(const at::Tensor& tensor) const;
  torch::autograd::edge_list edges() const;
};

/// Replaces tensors that a functorch transform left behind, now over, by the
/// tensors they wrap. Returns `arguments` itself where there are none.
Arguments unwrap_dead(Arguments arguments);

} // namespace torch_ext
