// The arguments of a call of apply(), as forward will get them.
#pragma once

#include <function/class_record.h>
#include <python/ref.h>

namespace torch_ext {

/// Positional arguments. Either the caller's own array, which outlives the
/// call, or the items of a tuple that is kept here.
class Arguments {
 public:
  Arguments(PyObject* const* items, Py_ssize_t count)
      : items_(items), count_(count) {}
  explicit Arguments(Ref tuple)
      : items_(PySequence_Fast_ITEMS(tuple.get())),
        count_(PyTuple_GET_SIZE(tuple.get())),
        tuple_(std::move(tuple)) {}

  PyObject* const* begin() const {
    return items_;
  }
  PyObject* const* end() const {
    return items_ + count_;
  }
  Py_ssize_t size() const {
    return count_;
  }
  PyObject* operator[](Py_ssize_t i) const {
    return items_[i];
  }

  /// As a tuple, made on demand: a new reference. Throws.
  Ref tuple() const;

 private:
  PyObject* const* items_;
  Py_ssize_t count_;
  Ref tuple_;
};

/// Binds the arguments of cls.apply() to the parameters of cls.forward, as
/// torch.autograd.Function.apply does: with setup_context overridden, as Python
/// would bind them, default values filled in; otherwise keyword arguments are
/// put in their places and default values are left to the call.
/// `items` and `count` are the positional arguments, followed by the values of
/// the keyword arguments that `keywords` (a tuple, or null) names.
/// Throws TypeError as torch does where they don't fit.
Arguments bind_arguments(
    const ClassRecord& record,
    PyObject* const* items,
    Py_ssize_t count,
    PyObject* keywords);

} // namespace torch_ext
