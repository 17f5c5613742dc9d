// SPDX-License-Identifier: BSD-3-Clause
#include <function/forward/class_record.h>

#include <compat.h>
#include <function/backward/user_backward.h>
#include <function/ctx/type.h>
#include <function/forward/backward_cls.h>
#include <function/torch_own.h>
#include <function/type_cache.h>
#include <python/error.h>
#include <python/immortal.h>
#include <python/names.h>

#include <utility>

namespace torch_ext {

namespace {

// torch_ext.Function, and a dict of what the ctx of its subclasses has beyond
// torch's: set by _compat.py if this torch lacks something.
Immortal backport_class;
Immortal backports_of_ctx;

/// What read_class() has found. Its references are borrowed from the class, but
/// for ctx_type, which backward_cls keeps.
struct CachedClass {
  PyObject* forward = nullptr; // as it stands in a dict, before its __get__
  PyObject* backward_cls = nullptr;
  PyObject* ctx_type = nullptr;
  bool separate_setup = false;
  bool clear_saved_tensors_on_access = false;
  bool boxed_grads_call = false;
  bool takes_keywords = true;
};

using ClassCache = TypeCache<CachedClass>;

/// The value of a flag; null, and no exception, if it can't be had: torch says
/// that the flag is missing, whatever the lookup raised. MemoryError is thrown.
Ref find_flag(PyObject* cls, PyObject* name) {
  Ref value = Ref::steal(PyObject_GetAttr(cls, name));
  if (!value) {
    if (PyErr_ExceptionMatches(PyExc_MemoryError)) {
      throw_python_error();
    }
    PyErr_Clear();
  }
  return value;
}

/// Reads a flag; returns false if it is missing or no bool.
bool read_flag(PyObject* cls, PyObject* name, bool& flag) {
  Ref value = find_flag(cls, name);
  flag = value.get() == Py_True;
  return value && PyBool_Check(value.get());
}

void require_flag(PyObject* cls, PyObject* name) {
  Ref value = find_flag(cls, name);
  if (!value) {
    raise(
        PyExc_RuntimeError, "autograd.Function is missing %U attribute", name);
  }
  if (!PyBool_Check(value.get())) {
    raise(
        PyExc_RuntimeError,
        "%U must be a bool, got %s",
        name,
        Py_TYPE(value.get())->tp_name);
  }
}

/// Whether `cls` is to have what newer releases of torch have.
bool has_backports(PyTypeObject* cls) {
  return backport_class && PyType_IsSubtype(cls, backport_class.as_type());
}

/// Whether `cls` has the flag boxed_grads_call.
bool boxes_grads(PyTypeObject* cls) {
  return torch_own.boxes_grads || has_backports(cls);
}

/// Whether the setup_context of a class is not the one that Function has.
bool is_overridden(PyObject* setup_context) {
  if (compat::kApplyIsInC) {
    return setup_context != torch_own.setup_context.get();
  }
  const int differs =
      PyObject_RichCompareBool(setup_context, torch_own.setup_context, Py_NE);
  check_status(differs);
  return differs != 0;
}

/// Remembers `record`, or forgets what was remembered of `cls`.
///
/// `record` was read since the class had this version. It may be used again
/// only if the class has it still, no code of the user's takes part in the
/// lookups, and each value is the same every time: else a look at the tag would
/// not tell that a value has changed. `forward` may be any descriptor, since
/// its __get__ is called each time.
void remember(
    PyTypeObject* cls,
    ClassVersion version,
    const ClassRecord& record) {
  ClassCache::here().forget(cls);
  if (!ClassCache::is_storable(cls, version) ||
      !has_plain_attributes(
          cls,
          {names.forward,
           names.setup_context,
           names._backward_cls,
           names.clear_saved_tensors_on_access,
           names.boxed_grads_call})) {
    return;
  }
  Ref forward = compat::type_lookup(cls, names.forward);
  Ref setup_context = compat::type_lookup(cls, names.setup_context);
  Ref backward_cls = compat::type_lookup(cls, names._backward_cls);
  if (!forward || !is_stable(setup_context) || !is_constant(backward_cls) ||
      !PyType_Check(backward_cls.get()) ||
      made_from(record.ctx_type.as_type()) !=
          made_from(backward_cls.as_type()) ||
      !is_constant(
          compat::type_lookup(cls, names.clear_saved_tensors_on_access)) ||
      (boxes_grads(cls) &&
       !is_constant(compat::type_lookup(cls, names.boxed_grads_call)))) {
    return;
  }
  ClassCache::here().store(
      cls,
      version,
      {forward.get(),
       backward_cls.get(),
       record.ctx_type.get(),
       record.separate_setup,
       record.clear_saved_tensors_on_access,
       record.boxed_grads_call,
       record.takes_keywords});
}

/// Fills `record` with what is remembered of `cls`; returns false if nothing is.
/// Throws what the __get__ of forward raises.
bool recall(PyTypeObject* cls, ClassRecord& record) {
  const CachedClass* found = ClassCache::here().find(cls);
  if (found == nullptr) {
    return false;
  }
  const CachedClass known = *found;
  Ref forward;
  Ref backward_cls;
  if constexpr (compat::kFreeThreaded) {
    forward = compat::type_lookup(cls, names.forward);
    backward_cls = compat::type_lookup(cls, names._backward_cls);
    if (!forward || backward_cls.get() != known.backward_cls ||
        !ClassCache::here().is_current(cls)) {
      return false;
    }
  } else {
    forward = Ref::share(known.forward);
  }
  record.ctx_type = Ref::share(known.ctx_type);
  record.separate_setup = known.separate_setup;
  record.clear_saved_tensors_on_access = known.clear_saved_tensors_on_access;
  record.boxed_grads_call = known.boxed_grads_call;
  record.takes_keywords = known.takes_keywords;
  record.forward = resolve(std::move(forward), cls);
  return true;
}

} // namespace

void init_class_records() {
  compat::init_version_tags();
}

ClassRecord read_class(PyObject* object) {
  auto* cls = reinterpret_cast<PyTypeObject*>(object);
  ClassRecord record;
  if (recall(cls, record)) {
    return record;
  }
  record.ctx_type =
      ctx_type_for(cls, has_backports(cls) ? backports_of_ctx.get() : nullptr);
  // Code that runs below may take the tags away again.
  const ClassVersion version = ClassVersion::give(cls);
  record.has_flags = read_flag(
                         object,
                         names.clear_saved_tensors_on_access,
                         record.clear_saved_tensors_on_access) &&
      (!boxes_grads(cls) ||
       read_flag(object, names.boxed_grads_call, record.boxed_grads_call));
  record.takes_keywords = compat::kApplyTakesKeywords || has_backports(cls);
  Ref setup = checked(PyObject_GetAttr(object, names.setup_context));
  record.separate_setup = is_overridden(setup.get());
  record.forward = checked(PyObject_GetAttr(object, names.forward));
  if (record.has_flags) {
    remember(cls, version, record);
  }
  return record;
}

void require_flags(PyObject* cls) {
  require_flag(cls, names.clear_saved_tensors_on_access);
  if (boxes_grads(reinterpret_cast<PyTypeObject*>(cls))) {
    require_flag(cls, names.boxed_grads_call);
  }
}

PyObject* py_give_backports(PyObject*, PyObject* arguments) {
  HANDLE_TH_ERRORS
  PyObject* cls = nullptr;
  PyObject* of_ctx = nullptr;
  if (!PyArg_ParseTuple(
          arguments, "O!O!", &PyType_Type, &cls, &PyDict_Type, &of_ctx)) {
    return nullptr;
  }
  set_backport_apply(find_item(of_ctx, names.apply));
  backport_class.set(Ref::share(cls));
  backports_of_ctx.set(Ref::share(of_ctx));
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

} // namespace torch_ext
