// SPDX-License-Identifier: BSD-3-Clause
// What forward returned, made part of the graph.
#pragma once

#include <compat.h>
#include <function/ctx/ctx.h>
#include <function/ctx/saved.h>
#include <function/forward/inputs.h>

#include <c10/util/ArrayRef.h>
#include <c10/util/SmallVector.h>

namespace torch_ext {

struct Wrapped {
  /// The outputs, as the caller gets them.
  c10::SmallVector<Ref, 4> outputs;
  /// The node that they got as their history, for the node creation hooks; null
  /// if this torch has none.
  compat::NodePtr attached;
};

/// Gives the tensors among `raw_outputs` their grad_fn, views and forward-mode
/// tangents, and notes in `ctx` what backward has to know of them.
/// Throws torch's errors on misuse. `separate_setup` is as in ClassRecord.
Wrapped wrap_outputs(
    Ctx& ctx,
    const Inputs& inputs,
    c10::ArrayRef<PyObject*> raw_outputs,
    const TensorsToSave& to_save,
    bool separate_setup);

} // namespace torch_ext
