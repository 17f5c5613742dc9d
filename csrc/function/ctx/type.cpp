// SPDX-License-Identifier: BSD-3-Clause
#include <function/ctx/type.h>

#include <compat.h>
#include <function/ctx/ctx.h>
#include <function/ctx/gc.h>
#include <python/error.h>
#include <python/names.h>

#include <torch/csrc/autograd/python_function.h>

namespace torch_ext {

PyTypeObject CtxType{};

PyTypeObject* made_from(PyTypeObject* type) {
  PyObject* bases = type->tp_bases;
  if (PyTuple_GET_SIZE(bases) != 2) {
    return type;
  }
  PyObject* first = PyTuple_GET_ITEM(bases, 0);
  PyObject* second = PyTuple_GET_ITEM(bases, 1);
  auto* ours = reinterpret_cast<PyObject*>(&CtxType);
  if (first != ours && second != ours) {
    return type;
  }
  return reinterpret_cast<PyTypeObject*>(first == ours ? second : first);
}

Ref make_ctx_type(PyTypeObject* backward_cls, PyObject* additions) {
  auto* backward = reinterpret_cast<PyObject*>(backward_cls);
  Ref module = checked(PyObject_GetAttr(backward, names.__module__));
  Ref qualname = checked(PyObject_GetAttr(backward, names.__qualname__));
  Ref dict =
      checked(additions != nullptr ? PyDict_Copy(additions) : PyDict_New());
  check_status(PyDict_SetItem(dict.get(), names.__module__, module.get()));
  check_status(PyDict_SetItem(dict.get(), names.__qualname__, qualname.get()));
  // What cloudpickle sends as the bases: torch's class alone.
  Ref bases = checked(PyTuple_Pack(1, backward));
  check_status(PyDict_SetItem(dict.get(), names.__orig_bases__, bases.get()));
  // In the class's own dict, where compiled autograd's guards look for it.
  Ref own = compat::type_dict(backward_cls);
  if (Ref forward = find_item(own.get(), names._forward_cls)) {
    check_status(PyDict_SetItem(dict.get(), names._forward_cls, forward.get()));
  }
  auto* ours = reinterpret_cast<PyObject*>(&CtxType);
  // A base can't come before a class that is derived from it.
  const bool is_base = backward_cls == &THPFunctionType;
  Ref type = checked(PyObject_CallFunction(
      reinterpret_cast<PyObject*>(Py_TYPE(backward_cls)),
      "s(OO)O",
      backward_cls->tp_name,
      is_base ? ours : backward,
      is_base ? backward : ours,
      dict.get()));
  TORCH_CHECK_TYPE(
      PyType_Check(type.get()) &&
          is_ctx_type(reinterpret_cast<PyTypeObject*>(type.get())),
      "torch_ext can't subclass ",
      backward_cls->tp_name,
      ", the _backward_cls of this Function: its metaclass returned an object "
      "of type ",
      Py_TYPE(type.get())->tp_name);
  auto& finalize = reinterpret_cast<PyTypeObject*>(type.get())->tp_finalize;
  if (finalize == nullptr) {
    finalize = finalize_ctx;
  }
  return type;
}

void init_ctx_types() {
  if (CtxType.tp_dict != nullptr) {
    return;
  }
  Py_SET_REFCNT(reinterpret_cast<PyObject*>(&CtxType), 1);
  // torch's own name: Python puts it into the messages of attribute errors.
  CtxType.tp_name = THPFunctionType.tp_name;
  CtxType.tp_doc = PyDoc_STR(
      "The ctx of a Function's call, and the grad_fn of what it returned.");
  CtxType.tp_basicsize = sizeof(Ctx);
  CtxType.tp_flags =
      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC;
  CtxType.tp_base = &THPFunctionType;
  CtxType.tp_new = ctx_new;
  CtxType.tp_dealloc = ctx_dealloc;
  CtxType.tp_traverse = traverse_ctx;
  CtxType.tp_clear = clear_ctx;
  CtxType.tp_getset = ctx_attributes;
  CtxType.tp_methods = ctx_methods;
  check_status(PyType_Ready(&CtxType));
  add_input_grad_buffers();
}

} // namespace torch_ext
