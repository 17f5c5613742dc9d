// SPDX-License-Identifier: BSD-3-Clause
// Tensors saved for backward.
#pragma once

#include <function/ctx/ctx.h>
#include <python/ref.h>

#include <torch/csrc/autograd/saved_variable.h>

namespace torch_ext {

/// What forward gave to save_for_backward, taken out of ctx and checked.
class TensorsToSave {
 public:
  /// Throws if to_save is no tuple, or has something else than tensors and
  /// None in it and the node is going to run (`executable`).
  TensorsToSave(Ctx& ctx, bool executable);

  /// The tuple's items; each is a tensor or None, or anything at all if the
  /// node is not going to run.
  PyObject* const* begin() const;
  PyObject* const* end() const;

  /// Saves them in `ctx`, whose call returned `outputs`. After the outputs have
  /// got their grad_fn, which saving must see.
  void save(Ctx& ctx, c10::ArrayRef<Ref> outputs) const;

 private:
  Ref tuple_;
};

/// ctx.saved_tensors. Drops the tensors if the class asks for that. Throws what
/// unpacking raises, and RuntimeError if they are gone.
Ref saved_tensors(Ctx& ctx);

/// The saved variables as a tuple of tensors and None. Throws what unpacking
/// raises, such as the error for a tensor that was changed in place since.
Ref unpack_saved(Ctx& ctx);

/// Drops what was saved for backward. Needs the GIL.
void drop_saved(Ctx& ctx);

/// The tensor inside a saved variable, a private member; undefined if the
/// tensor is kept by a hook.
at::Tensor& data_of(torch::autograd::SavedVariable& saved);

/// Visits what the hooks of a saved variable own, if they are Python's: the two
/// functions, and what the first one made of the tensor. For tp_traverse.
int traverse_hooks(
    torch::autograd::SavedVariable& saved,
    visitproc visit,
    void* arg);

} // namespace torch_ext
