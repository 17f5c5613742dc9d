// Tensors saved for backward.
#pragma once

#include <function/state.h>
#include <python/ref.h>

namespace torch_ext {

/// What forward gave to save_for_backward, taken out of ctx and checked.
class TensorsToSave {
 public:
  /// Throws where to_save is no tuple, or has something else than tensors and
  /// None in it and the node is going to run (`executable`).
  TensorsToSave(State& state, bool executable);

  /// The tuple's items; each is a tensor or None, or anything at all where the
  /// node is not going to run.
  PyObject* const* begin() const;
  PyObject* const* end() const;

  /// Saves them in `state`, whose call returned `outputs` (a tuple). After the
  /// outputs have got their grad_fn, which saving must see.
  void save(State& state, PyObject* outputs) const;

 private:
  Ref tuple_;
};

/// ctx.saved_tensors: a new reference, or null with an exception set. Lets go
/// of the tensors where the class asks for that.
PyObject* saved_tensors(State& state);

/// The saved variables as a tuple of tensors and None, checked for in-place
/// changes since: a new reference. Throws what unpacking raises.
Ref unpack_saved(State& state);

} // namespace torch_ext
