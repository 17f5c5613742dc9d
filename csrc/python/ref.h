// SPDX-License-Identifier: BSD-3-Clause
// Ownership of Python objects.
#pragma once

#include <torch/csrc/python_headers.h>
#include <utility>

namespace torch_ext {

/// Owns one reference, or is null. Every member that may drop it needs the GIL.
class Ref {
 public:
  Ref() = default;
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref(const Ref&) = delete;
  Ref& operator=(const Ref&) = delete;
  Ref& operator=(Ref&& other) noexcept {
    // The old object is dropped last: its destructor may run any code.
    Ref old(std::move(*this));
    object_ = std::exchange(other.object_, nullptr);
    return *this;
  }
  ~Ref() {
    Py_XDECREF(object_);
  }

  /// Takes over a reference that the caller owns. Null stays null.
  static Ref steal(PyObject* object) {
    return Ref(object);
  }
  /// Adds a reference of its own.
  static Ref share(PyObject* object) {
    return Ref(Py_XNewRef(object));
  }

  PyObject* get() const {
    return object_;
  }
  PyTypeObject* as_type() const {
    return reinterpret_cast<PyTypeObject*>(object_);
  }
  PyObject* release() {
    return std::exchange(object_, nullptr);
  }
  explicit operator bool() const {
    return object_ != nullptr;
  }

 private:
  explicit Ref(PyObject* object) : object_(object) {}
  PyObject* object_ = nullptr;
};

} // namespace torch_ext
