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
PyObject* known_backward_classes = nullptr; // weakref.WeakSet

/// A cache line of read_class(). All references are borrowed: each is alive for
/// as long as the version that stands beside it.
struct CachedClass {
  PyTypeObject* cls = nullptr;
  unsigned int cls_version = 0;
  unsigned int metaclass_version = 0;
  PyTypeObject* backward_cls = nullptr; // held by cls
  unsigned int backward_version = 0;
  PyObject* forward = nullptr; // the raw attribute, held by cls
  PyTypeObject* state_type = nullptr; // held by backward_cls
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
  // The order matters: backward_cls is alive only while cls is unchanged.
  return line.cls == cls && line.cls_version != 0 &&
      line.cls_version == compat::type_version(cls) &&
      line.metaclass_version == compat::type_version(Py_TYPE(cls)) &&
      line.backward_version == compat::type_version(line.backward_cls);
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

PyTypeObject* find_state_type(PyTypeObject* backward_cls) {
  Ref dict = checked(compat::type_dict(backward_cls));
  PyObject* found =
      PyDict_GetItemWithError(dict.get(), names._torch_ext_state_type);
  if (found == nullptr && PyErr_Occurred()) {
    throw_python_error();
  }
  if (found == nullptr || !PyType_Check(found)) {
    return nullptr;
  }
  auto* type = reinterpret_cast<PyTypeObject*>(found);
  return is_state_type(type) && PyType_IsSubtype(type, backward_cls) ? type
                                                                     : nullptr;
}

/// type(name, (StateType, backward_cls), {...}): named as torch's own class.
Ref make_state_type(PyTypeObject* backward_cls) {
  auto* backward = reinterpret_cast<PyObject*>(backward_cls);
  Ref module = checked(PyObject_GetAttr(backward, names.__module__));
  Ref qualname = checked(PyObject_GetAttr(backward, names.__qualname__));
  Ref dict = checked(PyDict_New());
  check_status(PyDict_SetItem(dict.get(), names.__module__, module.get()));
  check_status(PyDict_SetItem(dict.get(), names.__qualname__, qualname.get()));
  Ref type = checked(PyObject_CallFunction(
      reinterpret_cast<PyObject*>(Py_TYPE(backward_cls)),
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

/// The state type for nodes of `backward_cls`, made on first use and kept in
/// the dict of `backward_cls`, where the garbage collector sees the cycle.
Ref state_type_for(PyObject* backward) {
  TORCH_CHECK_TYPE(
      PyType_Check(backward) &&
          PyType_IsSubtype(
              reinterpret_cast<PyTypeObject*>(backward), &THPFunctionType),
      "_backward_cls of an autograd.Function must be a class derived from "
      "torch.autograd.function.BackwardCFunction, got ",
      PyType_Check(backward) ? reinterpret_cast<PyTypeObject*>(backward)->tp_name
                             : Py_TYPE(backward)->tp_name);
  auto* backward_cls = reinterpret_cast<PyTypeObject*>(backward);
  if (is_state_type(backward_cls)) {
    return Ref::share(backward);
  }
  if (PyTypeObject* found = find_state_type(backward_cls)) {
    return Ref::share(reinterpret_cast<PyObject*>(found));
  }
  Ref made = make_state_type(backward_cls);
  // Another thread may have been quicker while Python code ran.
  if (PyTypeObject* found = find_state_type(backward_cls)) {
    return Ref::share(reinterpret_cast<PyObject*>(found));
  }
  check_status(
      PyObject_SetAttr(backward, names._torch_ext_state_type, made.get()));
  checked(
      PyObject_CallMethod(known_backward_classes, "add", "O", backward));
  return made;
}

/// Fills the cache line of `cls` where what was read since the class had
/// `version` will hold until the class is changed; empties it otherwise.
void remember(
    PyTypeObject* cls,
    unsigned int version,
    PyObject* backward,
    const ClassRecord& record) {
  CachedClass& line = cache_line(cls);
  line = CachedClass();
  if (version == 0 || version != compat::type_version(cls) ||
      !has_plain_attributes(cls)) {
    return;
  }
  PyObject* forward = compat::type_lookup(cls, names.forward);
  PyObject* setup_context = compat::type_lookup(cls, names.setup_context);
  if (forward == nullptr || !is_stable(setup_context) ||
      compat::type_lookup(cls, names._backward_cls) != backward ||
      !is_constant(backward) ||
      !is_constant(
          compat::type_lookup(cls, names.clear_saved_tensors_on_access)) ||
      !is_constant(compat::type_lookup(cls, names.boxed_grads_call))) {
    return;
  }
  line.cls = cls;
  line.cls_version = version;
  line.metaclass_version = compat::type_version(Py_TYPE(cls));
  line.backward_cls = reinterpret_cast<PyTypeObject*>(backward);
  // A lookup gives the class a version tag where it has none.
  compat::type_lookup(line.backward_cls, names._torch_ext_state_type);
  line.backward_version = compat::type_version(line.backward_cls);
  line.forward = forward;
  line.state_type = reinterpret_cast<PyTypeObject*>(record.state_type.get());
  line.separate_setup = record.separate_setup;
  line.clear_saved_tensors_on_access = record.clear_saved_tensors_on_access;
  line.boxed_grads_call = record.boxed_grads_call;
  if (line.backward_version == 0 || line.metaclass_version == 0) {
    line = CachedClass();
  }
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
  known_backward_classes = classes.release();
  return true;
}

bool has_separate_setup(PyObject* cls) {
  Ref setup = checked(PyObject_GetAttr(cls, names.setup_context));
  return setup.get() != base_setup_context;
}

ClassRecord read_class(PyObject* object) {
  auto* cls = reinterpret_cast<PyTypeObject*>(object);
  ClassRecord record;
  if (const CachedClass& line = cache_line(cls); is_current(line, cls)) {
    record.state_type =
        Ref::share(reinterpret_cast<PyObject*>(line.state_type));
    record.separate_setup = line.separate_setup;
    record.clear_saved_tensors_on_access = line.clear_saved_tensors_on_access;
    record.boxed_grads_call = line.boxed_grads_call;
    record.forward = resolve(line.forward, cls);
    return record;
  }
  // The lookup gives the class a version tag; code that runs below may take it.
  Ref backward = checked(PyObject_GetAttr(object, names._backward_cls));
  unsigned int version = compat::type_version(cls);
  record.state_type = state_type_for(backward.get());
  record.clear_saved_tensors_on_access =
      read_flag(object, names.clear_saved_tensors_on_access);
  record.boxed_grads_call = read_flag(object, names.boxed_grads_call);
  record.separate_setup = has_separate_setup(object);
  record.forward = checked(PyObject_GetAttr(object, names.forward));
  remember(cls, version, backward.get(), record);
  return record;
}

PyObject* classes_with_state_type() {
  return PySequence_List(known_backward_classes);
}

} // namespace torch_ext
