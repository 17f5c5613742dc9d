// SPDX-License-Identifier: BSD-3-Clause
#include <function/torch_own.h>

#include <compat.h>
#include <python/error.h>
#include <python/names.h>

#include <torch/csrc/autograd/python_function.h>
#include <torch/csrc/autograd/python_variable.h>

namespace torch_ext {

TorchOwn torch_own;

namespace {

/// torch.autograd.Function, also while that name is another class's: found from
/// below, by a subclass of torch's.
Ref find_function_class(PyObject* module, PyObject* single_level) {
  Ref subclass =
      checked(PyObject_GetAttrString(module, compat::kSubclassOfFunction));
  auto* type = PyType_Check(subclass.get())
      ? reinterpret_cast<PyTypeObject*>(subclass.get())
      : nullptr;
  while (type != nullptr &&
         type->tp_base != reinterpret_cast<PyTypeObject*>(single_level)) {
    type = type->tp_base;
  }
  if (type == nullptr) {
    raise(
        PyExc_ImportError,
        "torch.autograd.function.%s is no subclass of torch's Function",
        compat::kSubclassOfFunction);
  }
  return Ref::share(reinterpret_cast<PyObject*>(type));
}

/// Whether `apply` is the classmethod of Python that torch's module defines.
bool is_classmethod_of(PyObject* module, const Ref& apply) {
  if (!apply || !Py_IS_TYPE(apply.get(), &PyClassMethod_Type)) {
    return false;
  }
  Ref function = checked(PyObject_GetAttrString(apply.get(), "__func__"));
  return PyFunction_Check(function.get()) &&
      PyFunction_GET_GLOBALS(function.get()) == PyModule_GetDict(module);
}

/// torch's own apply as it stands in the class. One of C stands in the base
/// class of C too, which nobody can change.
Ref find_apply(PyObject* module, PyTypeObject* function_class) {
  if (compat::kApplyIsInC) {
    return find_item(compat::type_dict(&THPFunctionType).get(), names.apply);
  }
  Ref there = find_item(compat::type_dict(function_class).get(), names.apply);
  if (!is_classmethod_of(module, there)) {
    raise(
        PyExc_ImportError,
        "torch_ext has to know torch's own apply, and torch.autograd.Function "
        "has another: %R. Import torch_ext before that is put there, or once "
        "it has been taken back",
        there ? there.get() : Py_None);
  }
  return there;
}

/// The function behind apply: a classmethod in Python, or a descriptor in C,
/// which can be called itself.
Ref function_behind(const Ref& apply) {
  return Py_IS_TYPE(apply.get(), &PyClassMethod_Type)
      ? checked(PyObject_GetAttrString(apply.get(), "__func__"))
      : Ref::share(apply.get());
}

} // namespace

void init_torch_own() {
  if (torch_own.function) {
    return; // by now apply may be ours
  }
  Ref module = checked(PyImport_ImportModule("torch.autograd.function"));
  Ref single_level = checked(
      PyObject_GetAttrString(module.get(), compat::kSingleLevelFunction));
  Ref backward =
      checked(PyObject_GetAttrString(module.get(), "BackwardCFunction"));
  Ref function = find_function_class(module.get(), single_level.get());
  Ref apply =
      find_apply(module.get(), reinterpret_cast<PyTypeObject*>(function.get()));

  torch_own.apply.set(function_behind(apply));
  torch_own.apply_in_class.set(std::move(apply));
  torch_own.setup_context.set(
      checked(PyObject_GetAttr(single_level.get(), names.setup_context)));
  torch_own.backward_apply.set(
      checked(PyObject_GetAttr(backward.get(), names.apply)));
  torch_own.get_user_fn.set(
      compat::type_lookup(
          reinterpret_cast<PyTypeObject*>(backward.get()), names._get_user_fn));
  torch_own.view_as.set(
      compat::type_lookup(
          reinterpret_cast<PyTypeObject*>(THPVariableClass), names.view_as));
  torch_own.boxes_grads =
      PyObject_HasAttr(single_level.get(), names.boxed_grads_call) != 0;
  torch_own.function.set(std::move(function));
}

} // namespace torch_ext
