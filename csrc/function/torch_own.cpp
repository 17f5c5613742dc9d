// SPDX-License-Identifier: BSD-3-Clause
#include <function/torch_own.h>

#include <compat.h>
#include <python/error.h>
#include <python/names.h>

#include <torch/csrc/autograd/python_variable.h>

namespace torch_ext {

TorchOwn torch_own;

namespace {

/// The function behind Function.apply: a classmethod in Python, or a descriptor
/// in C, which can be called itself.
Ref function_behind_apply(PyTypeObject* function_class) {
  Ref apply = compat::type_lookup(function_class, names.apply);
  if (!apply) {
    raise(PyExc_AttributeError, "torch.autograd.Function has no apply");
  }
  return Py_IS_TYPE(apply.get(), &PyClassMethod_Type)
      ? checked(PyObject_GetAttrString(apply.get(), "__func__"))
      : std::move(apply);
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
  Ref function = checked(PyObject_GetAttrString(module.get(), "Function"));

  torch_own.apply.set(
      function_behind_apply(reinterpret_cast<PyTypeObject*>(function.get())));
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
