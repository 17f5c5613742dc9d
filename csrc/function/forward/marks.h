// SPDX-License-Identifier: BSD-3-Clause
// The tensors that ctx was told about: ctx.mark_dirty() and the like.
#pragma once

#include <function/ctx/ctx.h>
#include <function/ctx/saved.h>

#include <optional>
#include <unordered_set>

namespace torch_ext {

/// Tensors by identity. Most calls mark none, and make no set.
class Marked {
 public:
  using Set = std::unordered_set<at::TensorImpl*>;

  void insert(const at::Tensor& tensor) {
    if (!set_) {
      set_.emplace();
    }
    set_->insert(tensor.unsafeGetTensorImpl());
  }
  bool empty() const {
    return !set_.has_value();
  }
  bool contains(const at::Tensor& tensor) const {
    return set_ && set_->count(tensor.unsafeGetTensorImpl()) != 0;
  }
  /// As torch's own code takes them.
  Set set() const {
    return set_.value_or(Set());
  }

 private:
  std::optional<Set> set_;
};

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
