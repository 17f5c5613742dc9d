#include <function/class_record.h>

#include <compat.h>
#include <function/state.h>
#include <python/error.h>
#include <python/names.h>

#include <array>

namespace torch_ext {

namespace {

// Owned for the life of the process.
PyObject* base_setup_context = nullptr; // _SingleLevelFunction.setup_context
PyObject* owners_of_state_types = nullptr; // weakref.WeakSet

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
};

// Direct-mapped and of fixed size, so that classes made by the thousand (as
// functorch does) cost no memory. Stale lines are harmless: version tags are
// never used twice. Guarded by the GIL.
constexpr size_t kCacheSize = 1024;
std::array<CachedClass, kCacheSize> cache;

CachedClass& cache_line(const PyTypeObject* cls) {
  auto address = reinterpret_cast<uintptr_t>(cls);
  return cache[(address >> 4 ^ address >> 14) % kCacheSize];
}

bool is_current(const CachedClass& line, const PyTypeObject* cls) {
  return line.cls == cls && line.cls_version != 0 &&
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
    if (compat::type_lookup(metaclass, name) != nullptr) {
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

bool is_constant(PyObject* attribute) {
  return attribute != nullptr && Py_TYPE(attribute)->tp_descr_get == nullptr;
}

/// Whether every access gives the same value until the class is changed.
bool is_stable(PyObject* attribute) {
  return attribute != nullptr &&
      (PyFunction_Check(attribute) || Py_IS_TYPE(attribute, &PyStaticMethod_Type) ||
       is_constant(attribute));
}

bool read_flag(PyObject* cls, PyObject* name) {
  Ref value = Ref::steal(PyObject_GetAttr(cls, name));
  const char* text = PyUnicode_AsUTF8(name);
  if (!value) {
    PyErr_Clear();
  }
  TORCH_CHECK(value, "autograd.Function is missing ", text, " attribute");
  TORCH_CHECK(
      PyBool_Check(value.get()),
      text,
      " must be a bool, got ",
      Py_TYPE(value.get())->tp_name);
  return value.get() == Py_True;
}

/// type(name, (StateType, backward_cls), {...}): named as torch's own class.
Ref make_state_type(PyTypeObject* backward_cls) {
  auto* backward = reinterpret_cast<PyObject*>(backward_cls);
  Ref module = checked(PyObject_GetAttr(backward, names.__module__));
  Ref qualname = checked(PyObject_GetAttr(backward, names.__qualname__));
  Ref dict = checked(PyDict_New());
  check_status(PyDict_SetItem(dict.get(), names.__module__, module.get()));
  check_status(PyDict_SetItem(dict.get(), names.__qualname__, qualname.get()));
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
  return type;
}

/// The class in the MRO of `cls` whose dict has _backward_cls. Borrowed.
PyTypeObject* owner_of_backward_cls(PyTypeObject* cls) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(cls->tp_mro); ++i) {
    auto* owner =
        reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(cls->tp_mro, i));
    Ref dict = checked(compat::type_dict(owner));
    int found = PyDict_Contains(dict.get(), names._backward_cls);
    check_status(found);
    if (found) {
      return owner;
    }
  }
  return nullptr;
}

/// The type of ctx for `cls`, made on first use. It takes the place of the class
/// that torch made, so that type(grad_fn) is cls._backward_cls here as there,
/// and cls keeps it alive, where the garbage collector sees the cycle.
Ref state_type_for(PyTypeObject* cls) {
  auto* object = reinterpret_cast<PyObject*>(cls);
  Ref backward = checked(PyObject_GetAttr(object, names._backward_cls));
  TORCH_CHECK_TYPE(
      PyType_Check(backward.get()) &&
          PyType_IsSubtype(
              reinterpret_cast<PyTypeObject*>(backward.get()),
              &THPFunctionType),
      "_backward_cls of an autograd.Function must be a class derived from "
      "torch.autograd.function.BackwardCFunction, got ",
      PyType_Check(backward.get())
          ? reinterpret_cast<PyTypeObject*>(backward.get())->tp_name
          : Py_TYPE(backward.get())->tp_name);
  auto* backward_cls = reinterpret_cast<PyTypeObject*>(backward.get());
  if (is_state_type(backward_cls)) {
    return backward;
  }
  PyTypeObject* owner = owner_of_backward_cls(cls);
  TORCH_CHECK_TYPE(
      owner != nullptr,
      "torch_ext found no _backward_cls in the dict of ",
      cls->tp_name,
      " or of a base of it");
  Ref made = make_state_type(backward_cls);
  // Another thread may have been quicker while Python code ran.
  Ref current = checked(PyObject_GetAttr(object, names._backward_cls));
  if (current.get() != backward.get()) {
    return state_type_for(cls);
  }
  auto* owner_object = reinterpret_cast<PyObject*>(owner);
  check_status(PyType_Type.tp_setattro(
      owner_object, names._backward_cls, made.get()));
  checked(PyObject_CallMethod(owners_of_state_types, "add", "O", owner_object));
  return made;
}

/// Fills the cache line of `cls` where what was read since the class had
/// `version` will hold until the class is changed; empties it otherwise.
void remember(
    PyTypeObject* cls,
    unsigned int version,
    const ClassRecord& record) {
  CachedClass& line = cache_line(cls);
  line = CachedClass();
  if (version == 0 || version != compat::type_version(cls) ||
      compat::type_version(Py_TYPE(cls)) == 0 || !has_plain_attributes(cls)) {
    return;
  }
  PyObject* forward = compat::type_lookup(cls, names.forward);
  PyObject* setup_context = compat::type_lookup(cls, names.setup_context);
  if (forward == nullptr || !is_stable(setup_context) ||
      compat::type_lookup(cls, names._backward_cls) !=
          record.state_type.get() ||
      !is_constant(record.state_type.get()) ||
      !is_constant(
          compat::type_lookup(cls, names.clear_saved_tensors_on_access)) ||
      !is_constant(compat::type_lookup(cls, names.boxed_grads_call))) {
    return;
  }
  line.cls = cls;
  line.cls_version = version;
  line.metaclass_version = compat::type_version(Py_TYPE(cls));
  line.forward = forward;
  line.state_type = record.state_type.get();
  line.separate_setup = record.separate_setup;
  line.clear_saved_tensors_on_access = record.clear_saved_tensors_on_access;
  line.boxed_grads_call = record.boxed_grads_call;
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
  Ref weakref = setup ? Ref::steal(PyImport_ImportModule("weakref")) : Ref();
  Ref classes = weakref
      ? Ref::steal(PyObject_CallMethod(weakref.get(), "WeakSet", nullptr))
      : Ref();
  if (!classes) {
    return false;
  }
  base_setup_context = setup.release();
  owners_of_state_types = classes.release();
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
    record.forward = resolve(line.forward, cls);
    return record;
  }
  record.state_type = state_type_for(cls);
  // The lookup gives the class a version tag; code that runs below may take it.
  compat::type_lookup(cls, names.forward);
  unsigned int version = compat::type_version(cls);
  record.clear_saved_tensors_on_access =
      read_flag(object, names.clear_saved_tensors_on_access);
  record.boxed_grads_call = read_flag(object, names.boxed_grads_call);
  Ref setup = checked(PyObject_GetAttr(object, names.setup_context));
  record.separate_setup = setup.get() != base_setup_context;
  record.forward = checked(PyObject_GetAttr(object, names.forward));
  remember(cls, version, record);
  return record;
}

PyObject* classes_with_state_type() {
  return PySequence_List(owners_of_state_types);
}

} // namespace torch_ext
