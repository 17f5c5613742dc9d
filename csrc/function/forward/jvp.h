// SPDX-License-Identifier: BSD-3-Clause
// Forward-mode AD: the user's jvp.
#pragma once

#include <function/ctx/ctx.h>

namespace torch_ext {

/// Calls jvp with the tangents of `inputs`, the tensors among forward's
/// arguments, and returns what jvp returned. A tangent is undefined if the
/// input has none. Throws what jvp raises.
torch::autograd::variable_list call_jvp(
    Ctx& ctx,
    const torch::autograd::variable_list& inputs,
    const torch::autograd::variable_list& tangents);

} // namespace torch_ext
