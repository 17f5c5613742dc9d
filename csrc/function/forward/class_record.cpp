// SPDX-License-Identifier: BSD-3-Clause
#include <function/forward/class_record.h>

#include <compat.h>
#include <function/backward/user_backward.h>
#include <function/ctx/type.h>
#include <function/forward/backward_cls.h>
#include <function/torch_own.h>
#include <python/error.h>
#include <python/immortal.h>
#include <python/names.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <utility>

namespace torch_ext {

namespace {

// torch_ext.Function, and a dict of what the ctx of its subclasses has beyond
// torch's: set by _compat.py if this torch lacks something.
Immortal backport_class;
Immortal backports_of_ctx;

/// What read_class() has found, to be used again while the class is unchanged.
///
/// Invariant: while `cls_version` is the version tag of `cls`, and
/// `metaclass_version` that of its metaclass, neither they nor a base of them
/// has been changed. So each attribute has the value that it had, and the
/// references, which are borrowed, are kept by the class or a base of it.
struct CachedClass {
  PyTypeObject* cls = nullptr;
  unsigned int cls_version = 0;
  unsigned int metaclass_version = 0;
  PyObject* forward = nullptr; // as it stands in a dict, before its __get__
  PyObject* ctx_type = nullptr;
  bool separate_setup = false;
  bool clear_saved_tensors_on_access = false;
  bool boxed_grads_call = false;
  bool takes_keywords = true;
};

// Each class has one line where it can stand, by its address, and takes the
// place of the class that is there: so classes made by the thousand, as
// functorch does, cost no memory. A line of a class that is gone is harmless,
// since no other type gets its version tag. Guarded by the GIL; not used on
// free-threaded Python.
constexpr size_t kCacheSize = 1024;
std::array<CachedClass, kCacheSize> cache;

CachedClass& cache_line(const PyTypeObject* cls) {
  auto address = reinterpret_cast<uintptr_t>(cls);
  return cache[(address >> 4 ^ address >> 14) % kCacheSize];
}

/// Forgets all classes if that invariant may not hold: version tags have
/// started over.
void check_cache() {
  if (compat::version_tags_restarted()) {
    cache.fill(CachedClass());
  }
}

bool is_current(const CachedClass& line, const PyTypeObject* cls) {
  return !compat::kFreeThreaded && line.cls == cls && line.cls_version != 0 &&
      line.cls_version == compat::type_version(cls) &&
      line.metaclass_version == compat::type_version(Py_TYPE(cls));
}

/// Whether for each name that read_class() looks up, cls.<name> is the
/// attribute in the dict of the class or a base, after its __get__: the
/// metaclass has no attribute of that name, and no __getattribute__ of its own.
bool has_plain_attributes(PyTypeObject* cls) {
  PyTypeObject* metaclass = Py_TYPE(cls);
  if (metaclass->tp_getattro != PyType_Type.tp_getattro) {
    return false;
  }
  for (PyObject* name : std::initializer_list<PyObject*>{
           names.forward,
           names.setup_context,
           names._backward_cls,
           names.clear_saved_tensors_on_access,
           names.boxed_grads_call}) {
    if (compat::type_lookup(metaclass, name)) {
      return false;
    }
  }
  return true;
}

/// The value of a plain attribute: what cls.<name> is if `attribute` stands in
/// the dict. Held meanwhile, since its __get__ may change the class.
Ref resolve(Ref attribute, PyTypeObject* cls) {
  if (descrgetfunc get = Py_TYPE(attribute.get())->tp_descr_get) {
    return checked(
        get(attribute.get(), nullptr, reinterpret_cast<PyObject*>(cls)));
  }
  return attribute;
}

bool is_constant(const Ref& attribute) {
  return attribute && Py_TYPE(attribute.get())->tp_descr_get == nullptr;
}

/// Whether cls.<name> is the same each time until the class is changed.
bool is_stable(const Ref& attribute) {
  return attribute &&
      (PyFunction_Check(attribute.get()) ||
       Py_IS_TYPE(attribute.get(), &PyStaticMethod_Type) ||
       is_constant(attribute));
}

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

/// Fills the cache line of `cls`, or empties it.
///
/// `record` was read since the class had the tag `version`. It may be used
/// again only if the class has that tag still, no code of the user's takes part
/// in the lookups, and each value is the same every time: else a look at the
/// tag would not tell that a value has changed. `forward` may be any
/// descriptor, since its __get__ is called each time.
void remember(
    PyTypeObject* cls,
    unsigned int version,
    const ClassRecord& record) {
  if (compat::kFreeThreaded) {
    return;
  }
  CachedClass& line = cache_line(cls);
  line = CachedClass();
  if (version == 0 || version != compat::type_version(cls) ||
      compat::type_version(Py_TYPE(cls)) == 0 || !has_plain_attributes(cls)) {
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
  line.cls = cls;
  line.cls_version = version;
  line.metaclass_version = compat::type_version(Py_TYPE(cls));
  line.forward = forward.get();
  line.ctx_type = record.ctx_type.get();
  line.separate_setup = record.separate_setup;
  line.clear_saved_tensors_on_access = record.clear_saved_tensors_on_access;
  line.boxed_grads_call = record.boxed_grads_call;
  line.takes_keywords = record.takes_keywords;
}

} // namespace

void init_class_records() {
  compat::init_version_tags();
}

ClassRecord read_class(PyObject* object) {
  auto* cls = reinterpret_cast<PyTypeObject*>(object);
  ClassRecord record;
  check_cache();
  if (const CachedClass& line = cache_line(cls); is_current(line, cls)) {
    record.ctx_type = Ref::share(line.ctx_type);
    record.separate_setup = line.separate_setup;
    record.clear_saved_tensors_on_access = line.clear_saved_tensors_on_access;
    record.boxed_grads_call = line.boxed_grads_call;
    record.takes_keywords = line.takes_keywords;
    record.forward = resolve(Ref::share(line.forward), cls);
    return record;
  }
  record.ctx_type =
      ctx_type_for(cls, has_backports(cls) ? backports_of_ctx.get() : nullptr);
  // The lookup gives the class a version tag, which code that runs below may
  // take away again.
  compat::type_lookup(cls, names.forward);
  unsigned int version = compat::type_version(cls);
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
