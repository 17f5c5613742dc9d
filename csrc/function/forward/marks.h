// The tensors that ctx was told about: ctx.mark_dirty() and the like.
#pragma once

#include <function/saved.h>
#include <function/state.h>

#include <unordered_set>

namespace torch_ext {

/// Tensors by identity.
using Marked = std::unordered_set<at::TensorImpl*>;

/// Takes out of `state` what was marked non-differentiable. Throws torch's
/// errors on misuse.
Marked take_non_differentiable(State& state);

/// The same for what was marked dirty; counts the modification of each.
Marked take_dirty(State& state);

/// The tensors that setup_context saved: it saw forward's own outputs, so an
/// input among them must not become another tensor on its way out.
Marked saved_by_setup_context(const State& state, const TensorsToSave& to_save);

/// Whether gradients flow back from `output`.
bool is_differentiable(
    const at::Tensor& output,
    const Marked& non_differentiable);

} // namespace torch_ext
