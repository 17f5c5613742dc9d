// The dtypes in which backward wants its gradients (ctx.set_output_grad_dtype).
#pragma once

#include <function/marks.h>
#include <function/state.h>

namespace torch_ext {

/// One declaration for each output of a call, or none at all.
class GradDtypes {
 public:
  /// Takes out of `state` what was declared for `raw_outputs` (a tuple). Throws
  /// torch's errors on misuse, and leaves it there.
  GradDtypes(
      State& state,
      PyObject* raw_outputs,
      const Marked& non_differentiable);

  /// Has the engine convert the gradients of the node's outputs.
  void declare(torch::autograd::Node& node) const;

 private:
  /// No dtype stands for any dtype.
  std::vector<std::optional<at::ScalarType>> dtypes_;
};

} // namespace torch_ext
