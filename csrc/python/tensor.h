// SPDX-License-Identifier: BSD-3-Clause
// Python's tensors.
#pragma once

#include <python/error.h>

#include <torch/csrc/autograd/python_variable.h>

namespace torch_ext {

/// Whether `object` is a tensor, by its type alone: what isinstance() says can
/// be made up, and the memory of a tensor is read next.
inline bool has_tensor_type(PyObject* object) {
  return PyObject_TypeCheck(
             object, reinterpret_cast<PyTypeObject*>(THPVariableClass)) != 0;
}

/// The same for what a user passes or returns. Throws TypeError for an object
/// that isinstance() takes for a tensor and that is none, such as a mock or a
/// weak proxy: if it counted as any other object, it would have no gradient and
/// nobody would notice. Throws what isinstance() raises.
inline bool is_real_tensor(PyObject* object) {
  if (has_tensor_type(object)) {
    return true;
  }
  const int claims = PyObject_IsInstance(object, THPVariableClass);
  check_status(claims);
  if (claims != 0) {
    raise(
        PyExc_TypeError,
        "expected a Tensor or an object that is none, got %s, which only "
        "claims to be one by its __class__; pass the Tensor itself",
        Py_TYPE(object)->tp_name);
  }
  return false;
}

/// The object as the tensor that it has to be; throws TypeError for any other.
inline THPVariable* require_tensor(PyObject* object) {
  if (!has_tensor_type(object)) {
    raise(
        PyExc_TypeError, "expected a Tensor, got %s", Py_TYPE(object)->tp_name);
  }
  return reinterpret_cast<THPVariable*>(object);
}

} // namespace torch_ext
