// SPDX-License-Identifier: BSD-3-Clause
// Methods and attributes of ctx that other threads may be using too.
#pragma once

#include <compat.h>

#include <cstddef>

namespace torch_ext {

/// The function `call`, in the critical section of its first argument.
template <auto function>
struct Guarded;

template <
    typename Result,
    typename... Rest,
    Result (*function)(PyObject*, Rest...)>
struct Guarded<function> {
  static Result call(PyObject* self, Rest... rest) {
    compat::CriticalSection of_self(self);
    return function(self, rest...);
  }
};

/// No function.
template <>
struct Guarded<nullptr> {
  static constexpr std::nullptr_t call = nullptr;
};

} // namespace torch_ext
