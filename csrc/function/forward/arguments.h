// SPDX-License-Identifier: BSD-3-Clause
// The arguments of a call of apply(), as forward will get them.
#pragma once

#include <function/forward/class_record.h>
#include <python/ref.h>

#include <c10/util/ArrayRef.h>

#include <utility>

namespace torch_ext {

/// Positional arguments: either the caller's array, which outlives the call, or
/// the items of a tuple that is kept here.
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
  c10::ArrayRef<PyObject*> items() const {
    return {items_, static_cast<size_t>(count_)};
  }

  /// The tuple of them, made if there is none. Throws.
  Ref tuple() const;

 private:
  PyObject* const* items_;
  Py_ssize_t count_;
  Ref tuple_;
};

/// Binds the arguments of cls.apply() to the parameters of cls.forward as
/// torch.autograd.Function.apply does. If setup_context is overridden, they are
/// bound as Python would bind them and defaults are filled in; if not, keyword
/// arguments are put in their places and defaults are left to the call.
/// `items` has `count` positional arguments, and after them the values of the
/// keyword arguments that `keywords`, a tuple or null, has the names of.
/// Throws torch's TypeError if they don't fit.
Arguments bind_arguments(
    const ClassRecord& record,
    PyObject* const* items,
    Py_ssize_t count,
    PyObject* keywords);

} // namespace torch_ext
