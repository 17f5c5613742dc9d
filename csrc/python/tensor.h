// Python's tensors.
#pragma once

#include <python/error.h>

#include <torch/csrc/autograd/python_variable.h>

namespace torch_ext {

/// The object as the tensor that it has to be; throws where it is none.
inline THPVariable* require_tensor(PyObject* object) {
  // By the type itself: what isinstance() says can be made up.
  if (!PyObject_TypeCheck(
          object, reinterpret_cast<PyTypeObject*>(THPVariableClass))) {
    raise(
        PyExc_TypeError, "expected a Tensor, got %s", Py_TYPE(object)->tp_name);
  }
  return reinterpret_cast<THPVariable*>(object);
}

} // namespace torch_ext
