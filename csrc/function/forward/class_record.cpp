#include <function/class_record.h>

#include <compat.h>
#include <function/garbage.h>
#include <function/state.h>
#include <function/user_backward.h>
#include <python/error.h>
#include <python/names.h>

#include <array>

namespace torch_ext {

namespace {

// Owned for the life of the process.
PyObject* base_setup_context = nullptr; // _SingleLevelFunction.setup_context
PyObject* owners_of_state_types = nullptr; // a set of weak references
PyObject* forget_owner = nullptr; // its discard(): what the references call
bool torch_boxes_grads = false; // torch's Functions have boxed_grads_call
PyObject* backport_class = nullptr; // torch_ext.Function
PyObject* backports_of_ctx = nullptr; // what the ctx of its subclasses gets

/// A cache line of read_class(). All references are borrowed: the class, or a
/// base of it, holds them for as long as cls_version is current.
struct CachedClass {
  PyTypeObject* cls = nullptr;
  unsigned int cls_version = 0;
  unsigned int metaclass_version = 0;
  PyObject* forward = nullptr; // the raw attribute
  PyObject* state_type = nullptr;
  bool separate_setup = false;
  bool clear_saved_tensors_on_access = false;
  bool boxed_grads_call = false;
  bool takes_keywords = true;
};

// Direct-mapped and of fixed size, so that classes made by the thousand (as
// functorch does) cost no memory. Stale lines are harmless: version tags are
// never used twice. Guarded by the GIL; not in use where there is none.
constexpr size_t kCacheSize = 1024;
std::array<CachedClass, kCacheSize> cache;

CachedClass& cache_line(const PyTypeObject* cls) {
  auto address = reinterpret_cast<uintptr_t>(cls);
  return cache[(address >> 4 ^ address >> 14) % kCacheSize];
}

bool is_current(const CachedClass& line, const PyTypeObject* cls) {
  return !compat::kFreeThreaded && line.cls == cls && line.cls_version != 0 &&
      line.cls_version == compat::type_version(cls) &&
      line.metaclass_version == compat::type_version(Py_TYPE(cls));
}

/// Whether cls.<name> is nothing but the attribute in the dict of the class or
/// a base, run through its __get__: no metaclass has a say.
bool has_plain_attributes(PyTypeObject* cls) {
  PyTypeObject* metaclass = Py_TYPE(cls);
  if (metaclass->tp_getattro != PyType_Type.tp_getattro) {
    return false;
  }
  for (PyObject* name :
       {names.forward,
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

/// The value of a plain attribute: `attribute` as `cls.<name>` gives it.
Ref resolve(PyObject* attribute, PyTypeObject* cls) {
  if (descrgetfunc get = Py_TYPE(attribute)->tp_descr_get) {
    return checked(get(attribute, nullptr, reinterpret_cast<PyObject*>(cls)));
  }
  return Ref::share(attribute);
}

bool is_constant(const Ref& attribute) {
  return attribute && Py_TYPE(attribute.get())->tp_descr_get == nullptr;
}

/// Whether every access gives the same value until the class is changed.
bool is_stable(const Ref& attribute) {
  return attribute &&
      (PyFunction_Check(attribute.get()) ||
       Py_IS_TYPE(attribute.get(), &PyStaticMethod_Type) ||
       is_constant(attribute));
}

/// The value of a flag; null, and no exception, where there is none. torch calls
/// it missing whatever the error is; that there is no memory is not hidden so.
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

/// Reads a flag; false where it is missing or no bool.
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

/// type(name, (StateType, backward_cls), {...}): named as torch's own class.
/// `additions`, a dict or null, is what the class has beyond torch's.
Ref make_state_type(PyTypeObject* backward_cls, PyObject* additions) {
  auto* backward = reinterpret_cast<PyObject*>(backward_cls);
  Ref module = checked(PyObject_GetAttr(backward, names.__module__));
  Ref qualname = checked(PyObject_GetAttr(backward, names.__qualname__));
  Ref dict = checked(
      additions != nullptr ? PyDict_Copy(additions) : PyDict_New());
  check_status(PyDict_SetItem(dict.get(), names.__module__, module.get()));
  check_status(PyDict_SetItem(dict.get(), names.__qualname__, qualname.get()));
  // In the class's own dict, where compiled autograd's guards look for it.
  Ref own = checked(compat::type_dict(backward_cls));
  if (Ref forward = find_item(own.get(), names._forward_cls)) {
    check_status(PyDict_SetItem(dict.get(), names._forward_cls, forward.get()));
  }
  PyTypeObject* metaclass = Py_TYPE(backward_cls) == &PyType_Type
      ? &StateMetaType
      : Py_TYPE(backward_cls);
  Ref type = checked(PyObject_CallFunction(
      reinterpret_cast<PyObject*>(metaclass),
      "s(OO)O",
      backward_cls->tp_name,
      reinterpret_cast<PyObject*>(&StateType),
      backward,
      dict.get()));
  TORCH_CHECK_TYPE(
      PyType_Check(type.get()) &&
          is_state_type(reinterpret_cast<PyTypeObject*>(type.get())),
      "torch_ext can't subclass ",
      backward_cls->tp_name,
      ", the _backward_cls of this Function: its metaclass returned an object of type ",
      Py_TYPE(type.get())->tp_name);
  auto& finalize = reinterpret_cast<PyTypeObject*>(type.get())->tp_finalize;
  if (finalize == nullptr) {
    finalize = finalize_state;
  }
  return type;
}

/// Whether `cls` is to have what newer releases of torch have.
bool has_backports(PyTypeObject* cls) {
  return backport_class != nullptr &&
      PyType_IsSubtype(cls, reinterpret_cast<PyTypeObject*>(backport_class));
}

/// Whether `cls` has the flag boxed_grads_call.
bool boxes_grads(PyTypeObject* cls) {
  return torch_boxes_grads || has_backports(cls);
}

/// The class in the MRO of `cls` whose dict has _backward_cls; null where there
/// is none.
Ref owner_of_backward_cls(PyTypeObject* cls) {
  const Ref mro = Ref::share(cls->tp_mro);
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(mro.get()); ++i) {
    PyObject* owner = PyTuple_GET_ITEM(mro.get(), i);
    Ref dict =
        checked(compat::type_dict(reinterpret_cast<PyTypeObject*>(owner)));
    int found = PyDict_Contains(dict.get(), names._backward_cls);
    check_status(found);
    if (found) {
      return Ref::share(owner);
    }
  }
  return Ref();
}

/// Sets owner._backward_cls to `made` where cls._backward_cls is still
/// `expected`. False where another thread was quicker while Python code ran.
bool replace_backward_cls(
    PyObject* cls,
    PyObject* owner,
    PyObject* expected,
    PyObject* made) {
  static compat::Mutex mutex;
  const compat::Lock lock(mutex);
  Ref current = checked(PyObject_GetAttr(cls, names._backward_cls));
  if (current.get() != expected) {
    return false;
  }
  check_status(PyType_Type.tp_setattro(owner, names._backward_cls, made));
  return true;
}

/// The type of ctx for `cls`, made on first use. It takes the place of the class
/// that torch made, so that type(grad_fn) is cls._backward_cls here as there,
/// and cls keeps it alive, where the garbage collector sees the cycle.
Ref state_type_for(PyTypeObject* cls) {
  auto* object = reinterpret_cast<PyObject*>(cls);
  Ref backward = checked(PyObject_GetAttr(object, names._backward_cls));
  const bool fits = PyType_Check(backward.get()) &&
      PyType_IsSubtype(
          reinterpret_cast<PyTypeObject*>(backward.get()), &THPFunctionType);
  if (!fits) {
    // torch calls whatever it is, and crashes where that raises nothing.
    checked(PyObject_CallNoArgs(backward.get()));
  }
  TORCH_CHECK_TYPE(
      fits,
      "_backward_cls of an autograd.Function must be a class derived from "
      "torch.autograd.function.BackwardCFunction, got ",
      PyType_Check(backward.get())
          ? reinterpret_cast<PyTypeObject*>(backward.get())->tp_name
          : Py_TYPE(backward.get())->tp_name);
  auto* backward_cls = reinterpret_cast<PyTypeObject*>(backward.get());
  if (is_state_type(backward_cls)) {
    return backward;
  }
  Ref owner = owner_of_backward_cls(cls);
  TORCH_CHECK_TYPE(
      owner,
      "torch_ext found no _backward_cls in the dict of ",
      cls->tp_name,
      " or of a base of it");
  Ref made = make_state_type(
      backward_cls, has_backports(cls) ? backports_of_ctx : nullptr);
  if (!replace_backward_cls(
          object, owner.get(), backward.get(), made.get())) {
    return state_type_for(cls);
  }
  // No weakref.WeakSet: torch.compile would see its Python code run, and count
  // or compile it.
  Ref owner_ref = checked(PyWeakref_NewRef(owner.get(), forget_owner));
  check_status(PySet_Add(owners_of_state_types, owner_ref.get()));
  return made;
}

/// Whether the setup_context of a class is not the one that Function has.
bool is_overridden(PyObject* setup_context) {
  if (compat::kApplyIsInC) {
    return setup_context != base_setup_context;
  }
  const int differs =
      PyObject_RichCompareBool(setup_context, base_setup_context, Py_NE);
  check_status(differs);
  return differs != 0;
}

/// Fills the cache line of `cls` where what was read since the class had
/// `version` will hold until the class is changed; empties it otherwise.
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
  if (!forward || !is_stable(setup_context) ||
      compat::type_lookup(cls, names._backward_cls).get() !=
          record.state_type.get() ||
      !is_constant(record.state_type) ||
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
  line.state_type = record.state_type.get();
  line.separate_setup = record.separate_setup;
  line.clear_saved_tensors_on_access = record.clear_saved_tensors_on_access;
  line.boxed_grads_call = record.boxed_grads_call;
  line.takes_keywords = record.takes_keywords;
}

} // namespace

bool init_class_records() {
  Ref module = Ref::steal(PyImport_ImportModule("torch.autograd.function"));
  Ref base = module ? Ref::steal(PyObject_GetAttrString(
                          module.get(), "_SingleLevelFunction"))
                    : Ref();
  Ref setup = base
      ? Ref::steal(PyObject_GetAttr(base.get(), names.setup_context))
      : Ref();
  Ref owners = setup ? Ref::steal(PySet_New(nullptr)) : Ref();
  Ref forget = owners
      ? Ref::steal(PyObject_GetAttrString(owners.get(), "discard"))
      : Ref();
  if (!forget) {
    return false;
  }
  base_setup_context = setup.release();
  owners_of_state_types = owners.release();
  forget_owner = forget.release();
  torch_boxes_grads =
      PyObject_HasAttr(base.get(), names.boxed_grads_call) != 0;
  return true;
}

ClassRecord read_class(PyObject* object) {
  auto* cls = reinterpret_cast<PyTypeObject*>(object);
  ClassRecord record;
  if (const CachedClass& line = cache_line(cls); is_current(line, cls)) {
    record.state_type = Ref::share(line.state_type);
    record.separate_setup = line.separate_setup;
    record.clear_saved_tensors_on_access = line.clear_saved_tensors_on_access;
    record.boxed_grads_call = line.boxed_grads_call;
    record.takes_keywords = line.takes_keywords;
    record.forward = resolve(line.forward, cls);
    return record;
  }
  record.state_type = state_type_for(cls);
  // The lookup gives the class a version tag; code that runs below may take it.
  compat::type_lookup(cls, names.forward);
  unsigned int version = compat::type_version(cls);
  record.has_flags =
      read_flag(
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

PyObject* give_backports(PyObject*, PyObject* arguments) {
  PyObject* cls = nullptr;
  PyObject* of_ctx = nullptr;
  if (!PyArg_ParseTuple(
          arguments, "O!O!", &PyType_Type, &cls, &PyDict_Type, &of_ctx)) {
    return nullptr;
  }
  Ref apply;
  HANDLE_TH_ERRORS
  apply = find_item(of_ctx, names.apply);
  END_HANDLE_TH_ERRORS
  set_backport_apply(apply.get());
  Ref old_class = Ref::steal(std::exchange(backport_class, Py_NewRef(cls)));
  Ref old_dict = Ref::steal(std::exchange(backports_of_ctx, Py_NewRef(of_ctx)));
  Py_RETURN_NONE;
}

PyObject* classes_with_state_type() {
  // A copy, since classes may go meanwhile.
  Ref refs = Ref::steal(PySequence_List(owners_of_state_types));
  Ref classes = refs ? Ref::steal(PyList_New(0)) : Ref();
  if (!classes) {
    return nullptr;
  }
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(refs.get()); ++i) {
    Ref cls = Ref::steal(
        PyObject_CallNoArgs(PyList_GET_ITEM(refs.get(), i)));
    if (!cls ||
        (cls.get() != Py_None && PyList_Append(classes.get(), cls.get()) < 0)) {
      return nullptr;
    }
  }
  return classes.release();
}

} // namespace torch_ext
