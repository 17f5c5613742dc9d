// Python exceptions on their way through C++.
#pragma once

#include <python/ref.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pythoncapi_compat.h>

namespace torch_ext {

/// Throws, leaving the Python exception that is set where it is. Code that the
/// engine calls must persist it before it lets go of the GIL (persisting()).
[[noreturn]] inline void throw_python_error() {
  throw python_error();
}

/// Runs `body`, which the engine called and which holds the GIL, and ties the
/// Python exception that it may leave to the C++ one: the engine carries that
/// to the thread that waits.
template <typename Body>
auto persisting(Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (python_error& error) {
    error.persist();
    throw;
  }
}

/// Owns the result of a CPython call that returns a new reference, or throws
/// the exception that the call has set.
inline Ref checked(PyObject* result) {
  if (result == nullptr) {
    throw_python_error();
  }
  return Ref::steal(result);
}

/// The same for calls that answer -1 with an exception set.
inline void check_status(int status) {
  if (status < 0) {
    throw_python_error();
  }
}

/// The item of a dict: null where there is none. Throws what comparing raises.
inline Ref find_item(PyObject* dict, PyObject* key) {
  PyObject* value = nullptr;
  check_status(PyDict_GetItemRef(dict, key, &value));
  return Ref::steal(value);
}

/// The tuple itself, or a tuple of the one object: what a function that may
/// return several has returned.
inline Ref as_tuple(Ref object) {
  return PyTuple_Check(object.get()) ? std::move(object)
                                     : checked(PyTuple_Pack(1, object.get()));
}

/// Sets an exception and throws it. `format` as for PyErr_Format.
template <typename... Args>
[[noreturn]] void raise(PyObject* type, const char* format, Args... args) {
  PyErr_Format(type, format, args...);
  throw_python_error();
}

} // namespace torch_ext
