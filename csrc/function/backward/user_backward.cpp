#include <function/user_backward.h>

#include <compat.h>
#include <python/error.h>
#include <python/names.h>

namespace torch_ext {

namespace {

// torch's own, owned for the life of the process.
PyObject* base_function = nullptr; // torch.autograd.Function
PyObject* base_apply = nullptr; // BackwardCFunction.apply
// BackwardCFunction._get_user_fn; null where apply itself looks for backward
// and boxes nothing.
PyObject* base_get_user_fn = nullptr;
// What the ctx of torch_ext.Function has in its place on a torch that boxes
// nothing; null where torch does.
PyObject* backport_apply = nullptr;

/// Whether object.<name> is the method `function`, by way of its class.
bool is_method(PyObject* object, PyObject* name, PyObject* function) {
  PyObject* method = nullptr;
  const bool unbound = compat::get_method(object, name, &method);
  return checked(method).get() == function && unbound;
}

/// cls.<name>, or null where that is what torch.autograd.Function has.
Ref overridden(PyObject* cls, PyObject* name) {
  Ref own = checked(PyObject_GetAttr(cls, name));
  Ref inherited = checked(PyObject_GetAttr(base_function, name));
  return own.get() == inherited.get() ? Ref() : std::move(own);
}

/// Whether cls.<name> is there and is False. An error is left to torch's apply.
bool is_false(PyObject* cls, PyObject* name) {
  Ref value = Ref::steal(PyObject_GetAttr(cls, name));
  if (!value) {
    PyErr_Clear();
  }
  return value.get() == Py_False;
}

} // namespace

Ref find_user_backward(PyObject* grad_fn) {
  const bool backported = backport_apply != nullptr &&
      is_method(grad_fn, names.apply, backport_apply);
  if (!backported && !is_method(grad_fn, names.apply, base_apply)) {
    return Ref();
  }
  Ref cls = checked(PyObject_GetAttr(grad_fn, names._forward_cls));
  if (base_get_user_fn != nullptr &&
      !is_method(grad_fn, names._get_user_fn, base_get_user_fn)) {
    return Ref();
  }
  if ((base_get_user_fn != nullptr || backported) &&
      !is_false(cls.get(), names.boxed_grads_call)) {
    return Ref();
  }
  // In torch's order: the first that is missing is the one in the error.
  Ref backward = overridden(cls.get(), names.backward);
  Ref vjp = overridden(cls.get(), names.vjp);
  if (!backward == !vjp) {
    return Ref();
  }
  return backward ? std::move(backward) : std::move(vjp);
}

void set_backport_apply(PyObject* apply) {
  Ref old = Ref::steal(std::exchange(backport_apply, Py_XNewRef(apply)));
}

bool init_user_backward() {
  Ref module = Ref::steal(PyImport_ImportModule("torch.autograd.function"));
  Ref function = module
      ? Ref::steal(PyObject_GetAttrString(module.get(), "Function"))
      : Ref();
  Ref base = function
      ? Ref::steal(PyObject_GetAttrString(module.get(), "BackwardCFunction"))
      : Ref();
  Ref apply = base ? Ref::steal(PyObject_GetAttr(base.get(), names.apply)) : Ref();
  if (!apply) {
    return false;
  }
  base_function = function.release();
  base_apply = apply.release();
  base_get_user_fn =
      compat::type_lookup(
          reinterpret_cast<PyTypeObject*>(base.get()), names._get_user_fn)
          .release();
  return true;
}

} // namespace torch_ext
