// SPDX-License-Identifier: BSD-3-Clause
#include <function/forward/accelerated_apply.h>

#include <compat.h>
#include <python/error.h>
#include <python/immortal.h>
#include <python/names.h>

#include <torch/csrc/autograd/python_function.h>

#include <cstddef>

namespace torch_ext {

namespace {

Immortal shared_apply; // what stands in torch_ext.Function

// A subclass of the type of `shared_apply`, with one more member: a weak
// reference to the class, or null.
PyTypeObject AcceleratedApplyType{};

PyObject*& weak_class(PyObject* self) {
  auto* base = reinterpret_cast<char*>(self);
  return *reinterpret_cast<PyObject**>(
      base + AcceleratedApplyType.tp_base->tp_basicsize);
}

void accelerated_dealloc(PyObject* self) {
  Py_CLEAR(weak_class(self));
  AcceleratedApplyType.tp_base->tp_dealloc(self);
}

/// getattr_static(cls, "apply"); without a class, what Python's own classmethod
/// does.
PyObject* reduce_accelerated(PyObject* self, PyObject*) {
  return to_slot([&] {
    PyObject* weak = weak_class(self);
    Ref cls = weak == nullptr ? Ref::share(Py_None)
                              : checked(PyObject_CallNoArgs(weak));
    if (cls.get() == Py_None) {
      Ref function = checked(PyObject_GetAttrString(self, "__func__"));
      return checked(
          Py_BuildValue("O(O)", &PyClassMethod_Type, function.get()));
    }
    Ref inspect = checked(PyImport_ImportModule("inspect"));
    Ref getter =
        checked(PyObject_GetAttrString(inspect.get(), "getattr_static"));
    return checked(
        Py_BuildValue("O(OO)", getter.get(), cls.get(), names.apply.get()));
  });
}

PyObject* get_function(PyObject*, void*) {
  return Py_NewRef(shared_apply);
}

PyMethodDef accelerated_methods[] = {
    {"__reduce_ex__", reduce_accelerated, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr}};

/// A classmethod of Python has a __func__ of its own.
PyGetSetDef attributes_of_c[] = {
    {"__func__", get_function, nullptr, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};

bool is_of_c() {
  return AcceleratedApplyType.tp_base == &PyClassMethodDescr_Type;
}

/// A copy of the classmethod of C that `shared_apply` is.
Ref copy_of_c() {
  const auto& theirs =
      *reinterpret_cast<PyMethodDescrObject*>(shared_apply.get());
  Ref made = checked(AcceleratedApplyType.tp_alloc(&AcceleratedApplyType, 0));
  auto& ours = *reinterpret_cast<PyMethodDescrObject*>(made.get());
  ours.d_common.d_type = reinterpret_cast<PyTypeObject*>(
      Py_NewRef(reinterpret_cast<PyObject*>(theirs.d_common.d_type)));
  ours.d_common.d_name = Py_NewRef(theirs.d_common.d_name);
  ours.d_method = theirs.d_method;
  return made;
}

Ref apply_for(PyObject* cls) {
  Ref made;
  if (is_of_c()) {
    made = copy_of_c();
  } else {
    Ref function = checked(PyObject_GetAttrString(shared_apply, "__func__"));
    // By a call of the type, which copies the function's attributes.
    made = checked(PyObject_CallOneArg(
        reinterpret_cast<PyObject*>(&AcceleratedApplyType), function.get()));
  }
  weak_class(made.get()) = checked(PyWeakref_NewRef(cls, nullptr)).release();
  return made;
}

} // namespace

PyObject* py_apply_for(PyObject*, PyObject* cls) {
  return to_slot([&] { return apply_for(cls); });
}

void init_accelerated_apply(PyObject* apply) {
  shared_apply.set(Ref::share(apply));
  PyTypeObject& type = AcceleratedApplyType;
  if (type.tp_dict != nullptr) {
    return;
  }
  Py_SET_REFCNT(reinterpret_cast<PyObject*>(&type), 1);
  type.tp_base = Py_TYPE(apply);
  type.tp_name = type.tp_base->tp_name;
  type.tp_basicsize =
      type.tp_base->tp_basicsize + static_cast<Py_ssize_t>(sizeof(PyObject*));
  type.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC;
  type.tp_traverse = type.tp_base->tp_traverse;
  type.tp_clear = type.tp_base->tp_clear;
  type.tp_dealloc = accelerated_dealloc;
  type.tp_methods = accelerated_methods;
  type.tp_getset = is_of_c() ? attributes_of_c : nullptr;
  check_status(PyType_Ready(&type));
}

} // namespace torch_ext
