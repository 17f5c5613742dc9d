#include <function/apply_callable.h>

#include <function/apply.h>
#include <python/names.h>
#include <python/ref.h>

#include <cstddef>

namespace torch_ext {

namespace {

// Owned for the life of the process.
PyObject* torch_function = nullptr;
PyObject* function_class = nullptr;

struct ApplyCallable {
  PyObject_HEAD
  vectorcallfunc vectorcall;
};

PyObject* vectorcall(
    PyObject*,
    PyObject* const* args,
    size_t count,
    PyObject* keywords) {
  return apply(args, PyVectorcall_NARGS(count), keywords);
}

PyObject* getattro(PyObject* self, PyObject* name) {
  PyObject* value = PyObject_GenericGetAttr(self, name);
  if (value != nullptr || !PyErr_ExceptionMatches(PyExc_AttributeError)) {
    return value;
  }
  PyErr_Clear();
  return PyObject_GetAttr(torch_function, name);
}

PyObject* repr(PyObject*) {
  return PyUnicode_FromString("<torch_ext's torch.autograd.Function.apply>");
}

/// Copied as functions are: not at all.
PyObject* copy(PyObject* self, PyObject*) {
  return Py_NewRef(self);
}

PyMethodDef callable_methods[] = {
    {"__copy__", copy, METH_NOARGS, nullptr},
    {"__deepcopy__", copy, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr}};

PyTypeObject ApplyCallableType{};

bool init_type() {
  if (ApplyCallableType.tp_dict != nullptr) {
    return true;
  }
  Py_SET_REFCNT(reinterpret_cast<PyObject*>(&ApplyCallableType), 1);
  ApplyCallableType.tp_name = "torch_ext._C.apply";
  ApplyCallableType.tp_basicsize = sizeof(ApplyCallable);
  ApplyCallableType.tp_flags =
      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL |
      Py_TPFLAGS_DISALLOW_INSTANTIATION;
  ApplyCallableType.tp_vectorcall_offset = offsetof(ApplyCallable, vectorcall);
  ApplyCallableType.tp_call = PyVectorcall_Call;
  ApplyCallableType.tp_getattro = getattro;
  ApplyCallableType.tp_repr = repr;
  ApplyCallableType.tp_methods = callable_methods;
  return PyType_Ready(&ApplyCallableType) == 0;
}

bool init_torch_function() {
  if (torch_function != nullptr) {
    return true;
  }
  Ref module = Ref::steal(PyImport_ImportModule("torch.autograd"));
  Ref cls = module
      ? Ref::steal(PyObject_GetAttrString(module.get(), "Function"))
      : Ref();
  Ref bound =
      cls ? Ref::steal(PyObject_GetAttr(cls.get(), names.apply)) : Ref();
  Ref function = bound
      ? Ref::steal(PyObject_GetAttrString(bound.get(), "__func__"))
      : Ref();
  if (!function) {
    return false;
  }
  torch_function = function.release();
  function_class = cls.release();
  return true;
}

} // namespace

PyObject* make_apply_callable() {
  if (!init_type() || !init_torch_function()) {
    return nullptr;
  }
  PyObject* object = ApplyCallableType.tp_alloc(&ApplyCallableType, 0);
  if (object != nullptr) {
    reinterpret_cast<ApplyCallable*>(object)->vectorcall = vectorcall;
  }
  return object;
}

PyObject* torch_apply() {
  return torch_function;
}

PyTypeObject* torch_function_class() {
  return reinterpret_cast<PyTypeObject*>(function_class);
}

} // namespace torch_ext
