#include <function/apply_callable.h>

#include <compat.h>
#include <function/apply.h>
#include <function/modes.h>
#include <python/method.h>
#include <python/names.h>
#include <python/ref.h>

#include <cstddef>

namespace torch_ext {

namespace {

// Owned for the life of the process.
PyObject* torch_function = nullptr;
PyObject* function_class = nullptr;
PyObject* framed_apply = nullptr;
PyObject* get_frame_callback = nullptr; // torch.compile's, for this thread

struct ApplyCallable {
  PyObject_HEAD
  vectorcallfunc vectorcall;
  PyObject* weak_references;
};

void dealloc(PyObject* self) {
  PyObject_ClearWeakRefs(self);
  Py_TYPE(self)->tp_free(self);
}

/// Whether torch.compile looks at this thread's frames now. Frames stay watched
/// in the whole process once it has been used.
bool compile_watches_here() {
  Ref callback = Ref::steal(PyObject_CallNoArgs(get_frame_callback));
  PyErr_Clear();
  return callback && callback.get() != Py_None;
}

/// apply(), the class being the first of the arguments. Without one the error is
/// torch's to raise.
PyObject* apply_to_first(
    PyObject* const* args,
    Py_ssize_t count,
    PyObject* keywords) {
  return count == 0
      ? PyObject_Vectorcall(torch_function, args, 0, keywords)
      : apply(args[0], args + 1, count - 1, keywords);
}

/// Whether somebody looks at the frames of this call, and torch's own apply,
/// which torch.func's transforms call themselves, would have one.
bool needs_frame() {
  return framed_apply != nullptr &&
      (tracing() || (compat::frames_are_watched() && compile_watches_here())) &&
      !functorch_active();
}

PyObject* vectorcall(
    PyObject*,
    PyObject* const* args,
    size_t count,
    PyObject* keywords) {
  if (needs_frame()) {
    return PyObject_Vectorcall(framed_apply, args, count, keywords);
  }
  return apply_to_first(args, PyVectorcall_NARGS(count), keywords);
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

/// Equal to torch's function, since it stands for it: `f = MyFn.apply` from
/// before an install() or uninstall() is then still equal to MyFn.apply, which
/// is how torch.compile recognises it.
PyObject* compare(PyObject* self, PyObject* other, int operation) {
  if (operation != Py_EQ && operation != Py_NE) {
    Py_RETURN_NOTIMPLEMENTED;
  }
  const bool same =
      other == self || other == torch_function || Py_IS_TYPE(other, Py_TYPE(self));
  return PyBool_FromLong(same == (operation == Py_EQ));
}

Py_hash_t hash(PyObject*) {
  return PyObject_Hash(torch_function);
}

/// Copied as functions are: not at all.
PyObject* copy(PyObject* self, PyObject*) {
  return Py_NewRef(self);
}

/// A function for isinstance(), as torch's own is. torch.compile and inspect
/// then read that one's code, which says the same.
PyObject* get_class(PyObject*, void*) {
  return Py_NewRef(Py_TYPE(torch_function));
}

PyGetSetDef callable_attributes[] = {
    {"__class__", get_class, nullptr, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};

PyMethodDef callable_methods[] = {
    {"__copy__", copy, METH_NOARGS, nullptr},
    {"__deepcopy__", copy, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr}};

PyTypeObject ApplyCallableType{};

/// The method where torch's own apply is one of C too.
PyMethodDef apply_method = {
    "apply",
    as_method(apply),
    METH_FASTCALL | METH_KEYWORDS,
    nullptr};

/// What stands in the class as `apply`: a new reference, or null with an
/// exception set.
PyObject* make_descriptor() {
  const auto* theirs = reinterpret_cast<PyMethodDescrObject*>(torch_function);
  apply_method.ml_doc = theirs->d_method->ml_doc;
  return PyDescr_NewClassMethod(&THPFunctionType, &apply_method);
}

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
  ApplyCallableType.tp_dealloc = dealloc;
  ApplyCallableType.tp_weaklistoffset = offsetof(ApplyCallable, weak_references);
  ApplyCallableType.tp_vectorcall_offset = offsetof(ApplyCallable, vectorcall);
  ApplyCallableType.tp_call = PyVectorcall_Call;
  ApplyCallableType.tp_getattro = getattro;
  ApplyCallableType.tp_repr = repr;
  ApplyCallableType.tp_richcompare = compare;
  ApplyCallableType.tp_hash = hash;
  ApplyCallableType.tp_getset = callable_attributes;
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
  if (!cls) {
    return false;
  }
  // A classmethod in Python, or a descriptor in C, which can be called itself.
  Ref apply = compat::type_lookup(
      reinterpret_cast<PyTypeObject*>(cls.get()), names.apply);
  if (apply && Py_IS_TYPE(apply.get(), &PyClassMethod_Type)) {
    apply = Ref::steal(PyObject_GetAttrString(apply.get(), "__func__"));
  }
  if (!apply) {
    return false;
  }
  torch_function = apply.release();
  function_class = cls.release();
  return true;
}

} // namespace

PyObject* make_apply() {
  if (!init_type() || !init_torch_function()) {
    return nullptr;
  }
  if (Py_IS_TYPE(torch_function, &PyClassMethodDescr_Type)) {
    return make_descriptor();
  }
  PyObject* object = ApplyCallableType.tp_alloc(&ApplyCallableType, 0);
  if (object == nullptr) {
    return nullptr;
  }
  reinterpret_cast<ApplyCallable*>(object)->vectorcall = vectorcall;
  Ref callable = Ref::steal(object);
  // By a call of the type, which copies the function's attributes.
  return PyObject_CallOneArg(
      reinterpret_cast<PyObject*>(&PyClassMethod_Type), callable.get());
}

PyObject* set_framed_apply(PyObject*, PyObject* arguments) {
  PyObject *function = nullptr, *callback = nullptr;
  if (!PyArg_ParseTuple(arguments, "OO", &function, &callback)) {
    return nullptr;
  }
  Ref::steal(std::exchange(get_frame_callback, Py_NewRef(callback)));
  Ref::steal(std::exchange(framed_apply, Py_NewRef(function)));
  Py_RETURN_NONE;
}

PyObject* call(
    PyObject*,
    PyObject* const* args,
    Py_ssize_t count,
    PyObject* keywords) {
  return apply_to_first(args, count, keywords);
}

PyObject* torch_apply() {
  return torch_function;
}

PyTypeObject* torch_function_class() {
  return reinterpret_cast<PyTypeObject*>(function_class);
}

} // namespace torch_ext
