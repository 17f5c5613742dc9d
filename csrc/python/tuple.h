// SPDX-License-Identifier: BSD-3-Clause
// Building and reading tuples.
#pragma once

#include <python/error.h>

#include <c10/util/ArrayRef.h>

#include <cstddef>

namespace torch_ext {

/// The items of a tuple, borrowed.
inline c10::ArrayRef<PyObject*> items_of(PyObject* tuple) {
  return {
      PySequence_Fast_ITEMS(tuple),
      static_cast<size_t>(PyTuple_GET_SIZE(tuple))};
}

/// The tuple (item(0), ..., item(count - 1)). `item` returns a Ref that is not
/// null, or throws.
template <typename Item>
Ref tuple_of(size_t count, Item&& item) {
  Ref tuple = checked(PyTuple_New(static_cast<Py_ssize_t>(count)));
  for (size_t i = 0; i < count; ++i) {
    PyTuple_SET_ITEM(
        tuple.get(), static_cast<Py_ssize_t>(i), item(i).release());
  }
  return tuple;
}

/// The same of bools: `is_true(i)` returns one.
template <typename IsTrue>
Ref tuple_of_bools(size_t count, IsTrue&& is_true) {
  return tuple_of(count, [&](size_t i) {
    return Ref::share(is_true(i) ? Py_True : Py_False);
  });
}

} // namespace torch_ext
