// Entries of a PyMethodDef or PyGetSetDef.
#pragma once

#include <compat.h>

namespace torch_ext {

/// A function of more arguments than a PyCFunction, as its flags declare it.
template <typename Function>
PyCFunction as_method(Function function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(function));
}

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
