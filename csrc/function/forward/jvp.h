// Forward-mode AD: the user's jvp.
#pragma once

#include <function/state.h>

namespace torch_ext {

/// Calls jvp with the inputs' tangents (undefined where there is none; zeros
/// are made of them if ctx materializes) and returns what it gave. `inputs` are
/// the tensors among the arguments.
torch::autograd::variable_list call_jvp(
    State& state,
    const torch::autograd::variable_list& inputs,
    const torch::autograd::variable_list& tangents);

} // namespace torch_ext
