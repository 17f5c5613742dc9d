// SPDX-License-Identifier: BSD-3-Clause
#include <function/forward/apply_callable.h>

#include <compat.h>
#include <function/forward/apply.h>
#include <function/forward/modes.h>
#include <function/torch_own.h>
#include <python/call.h>
#include <python/error.h>
#include <python/immortal.h>
#include <python/method.h>
#include <tracer/record.h>

#include <torch/csrc/autograd/python_function.h>

#include <cstddef>

namespace torch_ext {

namespace {

// Set by _frame.py, if torch's own apply has a Python frame.
Immortal framed_apply;
Immortal
    get_frame_callback; // what torch.compile does with this thread's frames

// MyFn.apply from torch 2.14 on; before, what the Python function calls.
PyMethodDef apply_method = {
    "apply",
    as_method(py_apply),
    METH_FASTCALL | METH_KEYWORDS,
    nullptr};

struct ApplyCallable {
  PyObject_HEAD vectorcallfunc vectorcall;
  PyObject* weak_references;
};

void dealloc(PyObject* self) {
  PyObject_ClearWeakRefs(self);
  Py_TYPE(self)->tp_free(self);
}

/// Whether torch.compile looks at this thread's frames now. Once it was used it
/// stays in the way of all frames of the process, mostly without looking.
bool compile_watches_here() {
  Ref callback = Ref::steal(PyObject_CallNoArgs(get_frame_callback));
  PyErr_Clear();
  return callback && callback.get() != Py_None;
}

/// py_apply(), with the class as the first of the arguments. If there is none,
/// the error is torch's to raise.
PyObject* py_apply_to_first(
    PyObject* const* args,
    Py_ssize_t count,
    PyObject* keywords) {
  return count == 0 ? PyObject_Vectorcall(torch_own.apply, args, 0, keywords)
                    : py_apply(args[0], args + 1, count - 1, keywords);
}

/// Whether somebody looks at the frames or the calls of this thread. Not under
/// a transform of torch.func, which calls torch's own apply, and so has its
/// frame.
bool needs_frame() {
  return framed_apply &&
      (tracing() || compat::calls_are_profiled() ||
       (compat::frames_are_watched() && compile_watches_here())) &&
      !functorch_active();
}

/// Calls the Python function with a method of C to call, and the arguments.
PyObject* call_framed(
    PyObject* const* args,
    Py_ssize_t count,
    PyObject* keywords) {
  return to_slot([&] {
    const Py_ssize_t named =
        keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
    Ref method = checked(PyCFunction_NewEx(&apply_method, args[0], nullptr));
    CallArguments all;
    all.add(method.get());
    all.add(args, args + count + named);
    return all.call(framed_apply, keywords);
  });
}

PyObject* vectorcall(
    PyObject*,
    PyObject* const* args,
    size_t nargsf,
    PyObject* keywords) {
  const Py_ssize_t count = PyVectorcall_NARGS(nargsf);
  return count > 0 && needs_frame() ? call_framed(args, count, keywords)
                                    : py_apply_to_first(args, count, keywords);
}

PyObject* getattro(PyObject* self, PyObject* name) {
  PyObject* value = PyObject_GenericGetAttr(self, name);
  if (value != nullptr || !PyErr_ExceptionMatches(PyExc_AttributeError)) {
    return value;
  }
  PyErr_Clear();
  return PyObject_GetAttr(torch_own.apply, name);
}

/// Sets an attribute of torch's function, which is where it is read.
int setattro(PyObject*, PyObject* name, PyObject* value) {
  return PyObject_SetAttr(torch_own.apply, name, value);
}

PyObject* repr(PyObject*) {
  return PyUnicode_FromString("<torch_ext's torch.autograd.Function.apply>");
}

/// Equal to torch's function. So `f = MyFn.apply` from before an install() or
/// uninstall() stays equal to MyFn.apply, by which torch.compile recognises it.
PyObject* compare(PyObject* self, PyObject* other, int operation) {
  if (operation != Py_EQ && operation != Py_NE) {
    Py_RETURN_NOTIMPLEMENTED;
  }
  const bool same = other == self || other == torch_own.apply ||
      Py_IS_TYPE(other, Py_TYPE(self));
  return PyBool_FromLong(same == (operation == Py_EQ));
}

Py_hash_t hash(PyObject*) {
  return PyObject_Hash(torch_own.apply);
}

/// A copy is the same object, as with functions.
PyObject* copy(PyObject* self, PyObject*) {
  return Py_NewRef(self);
}

/// What pickle makes of torch's function: a PicklingError, or the function by
/// value if the pickler can do that.
PyObject* reduce(PyObject*, PyObject*) {
  return to_slot([] {
    Ref module = checked(PyImport_ImportModule("copy"));
    Ref same = checked(PyObject_GetAttrString(module.get(), "copy"));
    return checked(
        Py_BuildValue("N(O)", same.release(), torch_own.apply.get()));
  });
}

/// A function for isinstance(), as torch's own is: torch.compile and inspect
/// then read the code of torch's, which does the same.
PyObject* get_class(PyObject*, void*) {
  return Py_NewRef(Py_TYPE(torch_own.apply.get()));
}

PyGetSetDef callable_attributes[] = {
    {"__class__", get_class, nullptr, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};

PyMethodDef callable_methods[] = {
    {"__copy__", copy, METH_NOARGS, nullptr},
    {"__deepcopy__", copy, METH_O, nullptr},
    {"__reduce_ex__", reduce, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr}};

PyTypeObject ApplyCallableType{};

Ref make_descriptor() {
  const auto* theirs =
      reinterpret_cast<PyMethodDescrObject*>(torch_own.apply.get());
  apply_method.ml_doc = theirs->d_method->ml_doc;
  return checked(PyDescr_NewClassMethod(&THPFunctionType, &apply_method));
}

void init_type() {
  if (ApplyCallableType.tp_dict != nullptr) {
    return;
  }
  Py_SET_REFCNT(reinterpret_cast<PyObject*>(&ApplyCallableType), 1);
  ApplyCallableType.tp_name = "torch_ext._C.apply";
  ApplyCallableType.tp_basicsize = sizeof(ApplyCallable);
  ApplyCallableType.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL |
      Py_TPFLAGS_DISALLOW_INSTANTIATION;
  ApplyCallableType.tp_dealloc = dealloc;
  ApplyCallableType.tp_weaklistoffset =
      offsetof(ApplyCallable, weak_references);
  ApplyCallableType.tp_vectorcall_offset = offsetof(ApplyCallable, vectorcall);
  ApplyCallableType.tp_call = PyVectorcall_Call;
  ApplyCallableType.tp_getattro = getattro;
  ApplyCallableType.tp_setattro = setattro;
  ApplyCallableType.tp_repr = repr;
  ApplyCallableType.tp_richcompare = compare;
  ApplyCallableType.tp_hash = hash;
  ApplyCallableType.tp_getset = callable_attributes;
  ApplyCallableType.tp_methods = callable_methods;
  check_status(PyType_Ready(&ApplyCallableType));
}

} // namespace

Ref make_apply() {
  init_type();
  if (Py_IS_TYPE(torch_own.apply.get(), &PyClassMethodDescr_Type)) {
    return make_descriptor();
  }
  Ref callable = checked(ApplyCallableType.tp_alloc(&ApplyCallableType, 0));
  reinterpret_cast<ApplyCallable*>(callable.get())->vectorcall = vectorcall;
  // By a call of the type, which copies the function's attributes.
  return checked(PyObject_CallOneArg(
      reinterpret_cast<PyObject*>(&PyClassMethod_Type), callable.get()));
}

PyObject* py_set_framed_apply(PyObject*, PyObject* arguments) {
  PyObject *function = nullptr, *callback = nullptr;
  if (!PyArg_ParseTuple(arguments, "OO", &function, &callback)) {
    return nullptr;
  }
  get_frame_callback.set(Ref::share(callback));
  framed_apply.set(Ref::share(function));
  Py_RETURN_NONE;
}

} // namespace torch_ext
