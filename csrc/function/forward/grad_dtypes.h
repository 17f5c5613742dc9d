// SPDX-License-Identifier: BSD-3-Clause
// The dtypes in which backward wants its gradients (ctx.set_output_grad_dtype).
#pragma once

#include <function/ctx/ctx.h>
#include <function/forward/marks.h>

#include <optional>
#include <vector>

namespace torch_ext {

/// One declaration for each output of a call, or none at all.
class GradDtypes {
 public:
  /// Takes out of `ctx` what was declared for `raw_outputs`, a tuple. On misuse
  /// throws torch's error and leaves it there.
  GradDtypes(
      Ctx& ctx,
      c10::ArrayRef<PyObject*> raw_outputs,
      const Marked& non_differentiable);

  /// Has the engine convert the gradients of the node's outputs.
  void declare(torch::autograd::Node& node) const;

 private:
  /// None: any dtype.
  std::vector<std::optional<at::ScalarType>> dtypes_;
};

} // namespace torch_ext
