// SPDX-License-Identifier: BSD-3-Clause
#include <notes/collector.h>

#include <python/error.h>
#include <python/ref.h>

#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/python_function.h>
#include <torch/csrc/autograd/python_variable.h>

#include <utility>
#include <vector>

namespace torch_ext {

namespace {

bool is_of_a_graph(PyObject* object) {
  // By the types alone: no code of a class may run.
  return PyType_IsSubtype(
             Py_TYPE(object),
             reinterpret_cast<PyTypeObject*>(THPVariableClass)) != 0 ||
      PyObject_TypeCheck(object, &THPFunctionType) ||
      torch::autograd::THPCppFunction_Check(object);
}

bool is_unfinished(PyObject* object) {
  if (!PyTuple_Check(object)) {
    return false;
  }
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(object); ++i) {
    if (PyTuple_GET_ITEM(object, i) == nullptr) {
      return true;
    }
  }
  return false;
}

/// The objects of a list that `wanted` takes. The list dies before anything
/// is allocated, which could let others run.
template <typename Wanted>
PyObject* filtered(Ref list, Wanted wanted) {
  std::vector<Ref> found;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list.get()); ++i) {
    PyObject* object = PyList_GET_ITEM(list.get(), i);
    if (wanted(object)) {
      found.push_back(Ref::share(object));
    }
  }
  list = Ref();
  Ref result = checked(PyList_New(static_cast<Py_ssize_t>(found.size())));
  for (std::size_t i = 0; i < found.size(); ++i) {
    PyList_SET_ITEM(
        result.get(), static_cast<Py_ssize_t>(i), found[i].release());
  }
  return result.release();
}

} // namespace

PyObject* py_graph_objects(PyObject*, PyObject*) {
  HANDLE_TH_ERRORS
  const Ref gc = checked(PyImport_ImportModule("gc"));
  return filtered(
      checked(PyObject_CallMethod(gc.get(), "get_objects", nullptr)),
      is_of_a_graph);
  END_HANDLE_TH_ERRORS
}

PyObject* py_referrers_of(PyObject*, PyObject* targets) {
  HANDLE_TH_ERRORS
  const Ref gc = checked(PyImport_ImportModule("gc"));
  const Ref function =
      checked(PyObject_GetAttrString(gc.get(), "get_referrers"));
  const Ref arguments = checked(PySequence_Tuple(targets));
  return filtered(
      checked(PyObject_CallObject(function.get(), arguments.get())),
      [&](PyObject* object) {
        return object != arguments.get() && !is_unfinished(object);
      });
  END_HANDLE_TH_ERRORS
}

} // namespace torch_ext
