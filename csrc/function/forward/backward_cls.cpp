// SPDX-License-Identifier: BSD-3-Clause
#include <function/forward/backward_cls.h>

#include <compat.h>
#include <function/ctx/type.h>
#include <python/error.h>
#include <python/immortal.h>
#include <python/names.h>

#include <torch/csrc/autograd/python_function.h>

namespace torch_ext {

namespace {

// Weak references to the classes whose _backward_cls was replaced: a set, and
// its discard(), which they call at the end of their class. Not a
// weakref.WeakSet: torch.compile would see its Python code run, and count or
// compile it.
Immortal owners;
Immortal forget_owner;

// Guards the replacing on Python without a GIL.
compat::Mutex replacing;

/// cls._backward_cls, which has to be a class that a grad_fn can be made of.
Ref require_backward_cls(PyTypeObject* cls) {
  Ref found = checked(
      PyObject_GetAttr(reinterpret_cast<PyObject*>(cls), names._backward_cls));
  const bool fits = PyType_Check(found.get()) &&
      PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(found.get()),
                       &THPFunctionType);
  if (!fits) {
    // torch calls whatever it is, and crashes unless that raises.
    checked(PyObject_CallNoArgs(found.get()));
  }
  TORCH_CHECK_TYPE(
      fits,
      "_backward_cls of an autograd.Function must be a class derived from "
      "torch.autograd.function.BackwardCFunction, got ",
      PyType_Check(found.get())
          ? reinterpret_cast<PyTypeObject*>(found.get())->tp_name
          : Py_TYPE(found.get())->tp_name);
  return found;
}

/// The class in the MRO of `cls` whose dict has `backward` as _backward_cls;
/// null if a metaclass or a descriptor has computed it.
Ref owner_of(PyObject* backward, PyTypeObject* cls) {
  if (compat::type_lookup(Py_TYPE(cls), names._backward_cls)) {
    return Ref();
  }
  const Ref mro = Ref::share(cls->tp_mro);
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(mro.get()); ++i) {
    PyObject* owner = PyTuple_GET_ITEM(mro.get(), i);
    Ref dict = compat::type_dict(reinterpret_cast<PyTypeObject*>(owner));
    if (Ref value = find_item(dict.get(), names._backward_cls)) {
      return value.get() == backward ? Ref::share(owner) : Ref();
    }
  }
  return Ref();
}

/// Sets owner._backward_cls to `made` if cls._backward_cls is still `expected`.
/// Returns false if another thread was quicker while Python code ran.
bool replace_backward_cls(
    PyTypeObject* cls,
    PyObject* owner,
    PyObject* expected,
    PyObject* made) {
  const compat::Lock lock(replacing);
  Ref current = checked(
      PyObject_GetAttr(reinterpret_cast<PyObject*>(cls), names._backward_cls));
  if (current.get() != expected) {
    return false;
  }
  // Not by a __setattr__ of the metaclass, which sees the user's assignments
  // only.
  check_status(PyType_Type.tp_setattro(owner, names._backward_cls, made));
  return true;
}

/// Whether `type` is what make_ctx_type() makes with these `additions`.
bool is_ctx_type_with(PyTypeObject* type, PyObject* additions) {
  auto* ours = reinterpret_cast<PyObject*>(&CtxType);
  if (PyTuple_GET_SIZE(type->tp_bases) != 2 ||
      (PyTuple_GET_ITEM(type->tp_bases, 0) != ours &&
       PyTuple_GET_ITEM(type->tp_bases, 1) != ours)) {
    return false;
  }
  Ref dict = compat::type_dict(type);
  PyObject* name = nullptr;
  Py_ssize_t position = 0;
  while (additions != nullptr &&
         PyDict_Next(additions, &position, &name, nullptr)) {
    if (!find_item(dict.get(), name)) {
      return false;
    }
  }
  return true;
}

/// The subclass that make_ctx_type() has made of `backward` and that still
/// lives, or a new one: Functions that share torch's class share ours.
Ref ctx_type_of(PyTypeObject* backward_cls, PyObject* additions) {
  Ref subclasses = checked(PyObject_CallMethod(
      reinterpret_cast<PyObject*>(&PyType_Type),
      "__subclasses__",
      "O",
      reinterpret_cast<PyObject*>(backward_cls)));
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(subclasses.get()); ++i) {
    PyObject* subclass = PyList_GET_ITEM(subclasses.get(), i);
    if (is_ctx_type_with(
            reinterpret_cast<PyTypeObject*>(subclass), additions)) {
      return Ref::share(subclass);
    }
  }
  return make_ctx_type(backward_cls, additions);
}

} // namespace

Ref ctx_type_for(PyTypeObject* cls, PyObject* additions) {
  for (;;) {
    Ref backward = require_backward_cls(cls);
    auto* backward_cls = reinterpret_cast<PyTypeObject*>(backward.get());
    if (is_ctx_type(backward_cls)) {
      return backward;
    }
    Ref made = ctx_type_of(backward_cls, additions);
    Ref owner = owner_of(backward.get(), cls);
    if (!owner) {
      // It may be computed again: its own dict, if it is no type of C's, keeps
      // ours alive.
      if (PyType_HasFeature(backward_cls, Py_TPFLAGS_HEAPTYPE)) {
        check_status(PyType_Type.tp_setattro(
            backward.get(), names._torch_ext_ctx_type, made.get()));
      }
      return made;
    }
    if (replace_backward_cls(cls, owner.get(), backward.get(), made.get())) {
      Ref owner_ref = checked(PyWeakref_NewRef(owner.get(), forget_owner));
      check_status(PySet_Add(owners, owner_ref.get()));
      return made;
    }
  }
}

Ref classes_with_ctx_type() {
  // A copy, since classes may go meanwhile.
  Ref refs = checked(PySequence_List(owners));
  Ref classes = checked(PyList_New(0));
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(refs.get()); ++i) {
    Ref cls = checked(PyObject_CallNoArgs(PyList_GET_ITEM(refs.get(), i)));
    if (cls.get() != Py_None) {
      check_status(PyList_Append(classes.get(), cls.get()));
    }
  }
  return classes;
}

void init_backward_cls() {
  if (!owners) {
    Ref set = checked(PySet_New(nullptr));
    forget_owner.set(checked(PyObject_GetAttrString(set.get(), "discard")));
    owners.set(std::move(set));
  }
}

} // namespace torch_ext
