// SPDX-License-Identifier: BSD-3-Clause
#include <function/backward/user_backward.h>

#include <compat.h>
#include <function/ctx/type.h>
#include <function/torch_own.h>
#include <function/type_cache.h>
#include <python/error.h>
#include <python/names.h>

#include <cstddef>
#include <iterator>
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

/// The backward or vjp of a class, whichever it has. The function is borrowed
/// from the class.
struct CachedBackward {
  PyObject* name = nullptr;
  PyObject* function = nullptr; // as it stands in a dict, before its __get__
};

using BackwardCache = TypeCache<CachedBackward>;

/// Remembers that `backward` was found since `cls` had this version. All that
/// was looked at has to be in the class, plain and the same every time.
void remember_backward(
    PyTypeObject* cls,
    ClassVersion version,
    PyObject* backward) {
  BackwardCache::here().forget(cls);
  if (!BackwardCache::is_storable(cls, version) ||
      PyType_IsSubtype(cls, torch_own.function.as_type()) == 0 ||
      !has_plain_attributes(
          cls, {names.backward, names.vjp, names.boxed_grads_call})) {
    return;
  }
  Ref flag = compat::type_lookup(cls, names.boxed_grads_call);
  PyObject* candidates[] = {names.backward, names.vjp};
  Ref functions[] = {
      compat::type_lookup(cls, names.backward),
      compat::type_lookup(cls, names.vjp)};
  const bool unboxed =
      flag ? flag.get() == Py_False : !torch_own.get_user_fn && !backport_apply;
  if (!unboxed || !is_stable(functions[0]) || !is_stable(functions[1])) {
    return;
  }
  for (size_t i = 0; i < std::size(candidates); ++i) {
    PyObject* function = functions[i].get();
    if (resolve(Ref::share(function), cls).get() == backward) {
      BackwardCache::here().store(cls, version, {candidates[i], function});
      return;
    }
  }
}

/// What is remembered of `cls`; null if nothing is. Throws what __get__ raises.
Ref recall_backward(PyTypeObject* cls) {
  const CachedBackward* known = BackwardCache::here().find(cls);
  if (known == nullptr) {
    return Ref();
  }
  Ref function;
  if constexpr (compat::kFreeThreaded) {
    function = compat::type_lookup(cls, known->name);
    if (!function || !BackwardCache::here().is_current(cls)) {
      return Ref();
    }
  } else {
    function = Ref::share(known->function);
  }
  return resolve(std::move(function), cls);
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
  auto* type = PyType_Check(cls.get()) ? cls.as_type() : nullptr;
  if (type != nullptr) {
    if (Ref known = recall_backward(type)) {
      return known;
    }
  }
  const ClassVersion version =
      type != nullptr ? ClassVersion::give(type) : ClassVersion();
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
  Ref found = backward ? std::move(backward) : std::move(vjp);
  if (type != nullptr) {
    remember_backward(type, version, found.get());
  }
  return found;
}

void set_backport_apply(Ref apply) {
  backport_apply.set(std::move(apply));
}

} // namespace torch_ext
