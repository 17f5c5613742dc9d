// SPDX-License-Identifier: BSD-3-Clause
#include <function/backward/user_backward.h>

#include <compat.h>
#include <function/ctx/type.h>
#include <function/torch_own.h>
#include <python/error.h>
#include <python/names.h>

#include <utility>

namespace torch_ext {

namespace {

// The apply that the ctx of torch_ext.Function has on a torch that never puts
// gradients into one list; null if torch does.
Immortal backport_apply;

/// Whether object.<name> is the method `function` of its class.
bool is_method(PyObject* object, PyObject* name, PyObject* function) {
  const compat::Method method = compat::get_method(object, name);
  return method.function.get() == function && method.takes_self;
}

/// cls.<name>; null if that is what torch.autograd.Function has.
Ref overridden(PyObject* cls, PyObject* name) {
  Ref own = checked(PyObject_GetAttr(cls, name));
  Ref inherited = checked(PyObject_GetAttr(torch_own.function, name));
  return own.get() == inherited.get() ? Ref() : std::move(own);
}

/// Whether cls.<name> is there and is False. If the lookup fails, torch's apply
/// will raise that.
bool is_false(PyObject* cls, PyObject* name) {
  Ref value = Ref::steal(PyObject_GetAttr(cls, name));
  if (!value) {
    PyErr_Clear();
  }
  return value.get() == Py_False;
}

} // namespace

Ref find_user_backward(PyObject* grad_fn) {
  // The backport hides what somebody may have set on the class that torch made.
  const bool backported = backport_apply &&
      is_method(grad_fn, names.apply, backport_apply) &&
      compat::type_lookup(made_from(Py_TYPE(grad_fn)), names.apply).get() ==
          torch_own.backward_apply.get();
  if (!backported &&
      !is_method(grad_fn, names.apply, torch_own.backward_apply)) {
    return Ref();
  }
  Ref cls = checked(PyObject_GetAttr(grad_fn, names._forward_cls));
  if (torch_own.get_user_fn &&
      !is_method(grad_fn, names._get_user_fn, torch_own.get_user_fn)) {
    return Ref();
  }
  if ((torch_own.get_user_fn || backported) &&
      !is_false(cls.get(), names.boxed_grads_call)) {
    return Ref();
  }
  // In torch's order, which decides the attribute that an error names.
  Ref backward = overridden(cls.get(), names.backward);
  Ref vjp = overridden(cls.get(), names.vjp);
  if (!backward == !vjp) {
    return Ref();
  }
  return backward ? std::move(backward) : std::move(vjp);
}

void set_backport_apply(Ref apply) {
  backport_apply.set(std::move(apply));
}

} // namespace torch_ext
