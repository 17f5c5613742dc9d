// SPDX-License-Identifier: BSD-3-Clause
// Python exceptions on their way through C++.
#pragma once

#include <python/ref.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pythoncapi_compat.h>

#include <new>
#include <utility>

// Which functions return null with an exception set, and which throw: slots of
// types and functions named py_* do the first, since Python calls them. All
// others throw, and return a Ref, a plain value or nothing.

namespace torch_ext {

/// Throws, leaving the Python exception that is set where it is. Code that the
/// engine calls must persist it before it releases the GIL (persisting()).
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

/// Runs the body of a slot that calls nothing of torch's: what it returns as a
/// new reference, or null with the exception set. HANDLE_TH_ERRORS does the
/// same for all other slots, at the cost of a buffer for torch's warnings.
template <typename Body>
PyObject* to_slot(Body&& body) {
  try {
    return body().release();
  } catch (python_error& error) {
    error.restore();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

/// Takes away the Python exception that is set, if one is, and sets it again at its
/// end. For code that must not lose it, nor run with it.
class ErrorAside {
 public:
  ErrorAside() {
    PyErr_Fetch(&type_, &value_, &traceback_);
  }
  ~ErrorAside() {
    PyErr_Restore(type_, value_, traceback_);
  }
  ErrorAside(const ErrorAside&) = delete;
  ErrorAside& operator=(const ErrorAside&) = delete;

  /// The exception object with its traceback, borrowed; null if none was set.
  PyObject* normalized() {
    PyErr_NormalizeException(&type_, &value_, &traceback_);
    if (traceback_ != nullptr) {
      PyException_SetTraceback(value_, traceback_);
    }
    return value_;
  }

 private:
  PyObject* type_ = nullptr;
  PyObject* value_ = nullptr;
  PyObject* traceback_ = nullptr;
};

/// Owns the result of a CPython call that returns a new reference, or throws
/// the exception that the call has set.
inline Ref checked(PyObject* result) {
  if (result == nullptr) {
    throw_python_error();
  }
  return Ref::steal(result);
}

/// The same for calls that return -1 with an exception set.
inline void check_status(int status) {
  if (status < 0) {
    throw_python_error();
  }
}

/// The item of a dict; null if there is none. Throws what comparing keys
/// raises.
inline Ref find_item(PyObject* dict, PyObject* key) {
  PyObject* value = nullptr;
  check_status(PyDict_GetItemRef(dict, key, &value));
  return Ref::steal(value);
}

/// `object` if it is a tuple, and otherwise a tuple with `object` alone: the
/// results of a function that may return one or several.
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
