// SPDX-License-Identifier: BSD-3-Clause
#include <function/forward/backward_cls.h>

#include <compat.h>
#include <function/ctx/type.h>
#include <python/error.h>
#include <python/immortal.h>
#include <python/names.h>

#include <torch/csrc/autograd/python_function.h>

#include <atomic>
#include <utility>

namespace torch_ext {

namespace {

// What backward classes keep that are types of C's own, by type: these never
// die.
Immortal kept_by_static_types;

// Guards the making of what the dict of a class keeps on Python without a GIL.
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

/// dict.setdefault(key, value)
Ref set_default(PyObject* dict, PyObject* key, PyObject* value) {
  PyObject* found = nullptr;
  check_status(PyDict_SetDefaultRef(dict, key, value, &found));
  return Ref::steal(found);
}

/// dict[_torch_ext_ctx_type], a dict that is made if there is none.
Ref dict_in(PyObject* dict) {
  Ref made = checked(PyDict_New());
  return set_default(dict, names._torch_ext_ctx_type, made.get());
}

/// The dict of a module; null if `object`, which may be null, is no module.
PyObject* dict_of_module(PyObject* object) {
  if (object == nullptr || !PyModule_Check(object)) {
    return nullptr;
  }
  PyObject* dict = PyModule_GetDict(object);
  if (dict == nullptr) {
    throw_python_error();
  }
  return dict;
}

/// The same for the dict of a class.
Ref dict_in_class(PyTypeObject* type) {
  Ref own = compat::type_dict(type);
  const compat::Lock lock(making);
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
  std::atomic_ref<PyObject*> place(
      reinterpret_cast<PyHeapTypeObject*>(type)->ht_module);
  PyObject* module = place.load(std::memory_order_acquire);
  if (module == nullptr) {
    Ref made = checked(PyModule_New("torch_ext"));
    dict_in(dict_of_module(made.get()));
    // Another thread may have been quicker; `module` is then what it has put
    // there.
    if (place.compare_exchange_strong(module, made.get())) {
      module = made.release();
    }
  }
  PyObject* dict = dict_of_module(module);
  Ref kept =
      dict == nullptr ? Ref() : find_item(dict, names._torch_ext_ctx_type);
  // A class of a C module can't be sent by value.
  return kept ? std::move(kept) : dict_in_class(type);
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
