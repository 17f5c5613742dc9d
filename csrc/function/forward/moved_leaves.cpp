// SPDX-License-Identifier: BSD-3-Clause
#include <function/forward/moved_leaves.h>

#include <ATen/EmptyTensor.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>

namespace torch_ext {

namespace {

using torch::autograd::AccumulateGrad;
using torch::autograd::variable_list;
namespace impl = torch::autograd::impl;

struct RefusesGradient final : torch::autograd::FunctionPreHook {
  variable_list operator()(const variable_list&) override {
    TORCH_CHECK(
        false,
        "leaf variable has been moved into the graph interior: a custom "
        "Function "
        "marked it as dirty after it was detached, so there is no leaf left to "
        "accumulate this gradient into. Don't call detach_() or "
        "requires_grad_(False) on an input that requires grad.");
  }
};

/// A tensor for an emptied node to hold. It is made without the dispatcher: a
/// mode would see an operator there.
at::Tensor make_stand_in() {
  at::Tensor tensor = at::detail::empty_cpu(
      {0}, at::kFloat, /*pin_memory=*/false, std::nullopt);
  impl::add_hook(tensor, std::make_unique<RefusesGradient>());
  return tensor;
}

} // namespace

MovedLeaves::MovedLeaves(const Inputs& inputs, const Marked& dirty) {
  for (const at::Tensor* tensor : inputs.tensors) {
    if (dirty.contains(*tensor)) {
      if (auto node = impl::try_get_grad_accumulator(*tensor)) {
        accumulators_.push_back(std::move(node));
      }
    }
  }
}

MovedLeaves::~MovedLeaves() {
  for (const compat::NodePtr& node : accumulators_) {
    auto* accumulator = dynamic_cast<AccumulateGrad*>(node.get());
    if (accumulator != nullptr && !accumulator->variable.defined()) {
      try {
        accumulator->variable = make_stand_in();
      } catch (...) {
        continue; // no memory: the node stays as torch leaves it
      }
    }
  }
}

} // namespace torch_ext
