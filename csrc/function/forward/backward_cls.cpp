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

// What backward classes keep that are types of C's own, by type: these never
// die.
Immortal kept_by_static_types;

// Guards the making of what a class keeps on Python without a GIL.
compat::Mutex making;

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

/// A module object that belongs to no C module: nothing but a dict that the
/// garbage collector sees.
bool is_bare_module(PyObject* object) {
  return PyModule_CheckExact(object) && PyModule_GetDef(object) == nullptr;
}

/// dict.setdefault(key, value)
Ref set_default(PyObject* dict, PyObject* key, PyObject* value) {
  PyObject* found = nullptr;
  check_status(PyDict_SetDefaultRef(dict, key, value, &found));
  return Ref::steal(found);
}

/// type.__dict__[_torch_ext_ctx_type], a dict.
Ref dict_in_own_dict(PyTypeObject* type) {
  Ref own = compat::type_dict(type);
  Ref kept = find_item(own.get(), names._torch_ext_ctx_type);
  if (!kept) {
    kept = checked(PyDict_New());
    check_status(PyType_Type.tp_setattro(
        reinterpret_cast<PyObject*>(type),
        names._torch_ext_ctx_type,
        kept.get()));
  }
  return kept;
}

/// A dict that lives as long as `type`, and that only torch_ext sees.
///
/// Not the dict of the class, which cloudpickle and dill send to other
/// processes. No C module defined a class that was made in Python, so its
/// ht_module is free: the collector looks there, and it goes with the class.
/// It has to be a module, since C code asks it for its definition.
Ref dict_kept_by(PyTypeObject* type) {
  if (!PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE)) {
    Ref made = checked(PyDict_New());
    return set_default(
        kept_by_static_types, reinterpret_cast<PyObject*>(type), made.get());
  }
  auto* heap_type = reinterpret_cast<PyHeapTypeObject*>(type);
  Ref made = checked(PyModule_New("torch_ext"));
  const compat::Lock lock(making);
  if (heap_type->ht_module == nullptr) {
    heap_type->ht_module = made.release();
  }
  // A class of a C module can't be sent by value.
  return is_bare_module(heap_type->ht_module)
      ? Ref::share(PyModule_GetDict(heap_type->ht_module))
      : dict_in_own_dict(type);
}

} // namespace

Ref ctx_type_for(PyTypeObject* cls, PyObject* additions) {
  Ref backward = require_backward_cls(cls);
  auto* backward_cls = reinterpret_cast<PyTypeObject*>(backward.get());
  if (is_ctx_type(backward_cls)) {
    return backward;
  }
  Ref kept = dict_kept_by(backward_cls);
  PyObject* key =
      additions == nullptr ? names._backward_cls : names._torch_ext_ctx_type;
  if (Ref type = find_item(kept.get(), key)) {
    return type;
  }
  Ref made = make_ctx_type(backward_cls, additions);
  // Another thread may have been quicker while Python code ran.
  return set_default(kept.get(), key, made.get());
}

void init_backward_cls() {
  if (!kept_by_static_types) {
    kept_by_static_types.set(checked(PyDict_New()));
  }
}

} // namespace torch_ext
