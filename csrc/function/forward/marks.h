// SPDX-License-Identifier: BSD-3-Clause
// The tensors that ctx was told about: ctx.mark_dirty() and the like.
#pragma once

#include <function/ctx/ctx.h>
#include <function/ctx/saved.h>

#include <unordered_set>

namespace torch_ext {

/// Tensors by identity.
using Marked = std::unordered_set<at::TensorImpl*>;

/// Takes out of `ctx` what was marked non-differentiable. Throws torch's error
/// on misuse.
Marked take_non_differentiable(Ctx& ctx);

/// The same for what was marked dirty; counts the modification of each.
Marked take_dirty(Ctx& ctx);

/// The tensors that setup_context saved. It saw forward's own outputs, so an
/// input that is both saved and returned may not become another tensor (a view
/// of itself) on its way out.
Marked saved_by_setup_context(const Ctx& ctx, const TensorsToSave& to_save);

/// Whether gradients flow back from `output`.
bool is_differentiable(
    const at::Tensor& output,
    const Marked& non_differentiable);

} // namespace torch_ext
