// What forward returned, made part of the graph.
#pragma once

#include <function/inputs.h>
#include <function/saved.h>
#include <function/state.h>

namespace torch_ext {

struct Wrapped {
  /// The tuple of outputs.
  Ref outputs;
  /// The node that they have as their history, where node creation hooks are
  /// to see it.
  compat::NodePtr attached;
};

/// Gives the tensors among `raw_outputs` (a tuple) their grad_fn, views and
/// forward-mode tangents, and notes in `state` what backward has to know of
/// them. Throws torch's errors on misuse. `separate_setup` as in ClassRecord.
Wrapped wrap_outputs(
    State& state,
    const Inputs& inputs,
    PyObject* raw_outputs,
    const TensorsToSave& to_save,
    bool separate_setup);

} // namespace torch_ext
