#include <anomaly/lazy_traceback.h>

#include <compat.h>
#include <python/error.h>
#include <python/names.h>

#include <c10/util/SmallVector.h>

#include <atomic>
#include <memory>

namespace torch_ext {

namespace {

/// A position in a piece of code; owns the code object.
struct Position {
  PyCodeObject* code;
  int instruction; // byte offset
};

/// A list whose items are made on first use. Every way to the items that Python
/// code has (slots and attributes) makes them first; CPython's own fast paths
/// are for exact lists and take the iterator of this one.
struct LazyTraceback {
  PyListObject list;
  Position* positions; // innermost first
  Py_ssize_t count;
  bool filled;

  bool is_filled() {
    return std::atomic_ref<bool>(filled).load(std::memory_order_acquire);
  }
  void set_filled() {
    std::atomic_ref<bool>(filled).store(true, std::memory_order_release);
  }
};

LazyTraceback* as_lazy(PyObject* object) {
  return reinterpret_cast<LazyTraceback*>(object);
}

/// [(file, line, function)], outermost first.
Ref to_summaries(const LazyTraceback& lazy) {
  Ref list = checked(PyList_New(lazy.count));
  for (Py_ssize_t i = 0; i < lazy.count; ++i) {
    const Position& position = lazy.positions[lazy.count - 1 - i];
    Ref item = checked(Py_BuildValue(
        "(OiO)",
        position.code->co_filename,
        PyCode_Addr2Line(position.code, position.instruction),
        position.code->co_name));
    PyList_SET_ITEM(list.get(), i, item.release());
  }
  return list;
}

/// Calls a function of torch_ext._traceback on the stack.
Ref call_formatter(PyObject* self, const char* function) {
  Ref module = checked(PyImport_ImportModule("torch_ext._traceback"));
  Ref summaries = to_summaries(*as_lazy(self));
  return checked(
      PyObject_CallMethod(module.get(), function, "O", summaries.get()));
}

/// Makes the items where they are not made yet. False with an exception set.
bool fill(PyObject* self) {
  HANDLE_TH_ERRORS
  if (as_lazy(self)->is_filled()) {
    return true;
  }
  Ref lines = call_formatter(self, "format_lines");
  // Another thread may have been quicker while Python code ran.
  static compat::Mutex mutex;
  const compat::Lock lock(mutex);
  if (!as_lazy(self)->is_filled()) {
    check_status(PyList_SetSlice(self, 0, 0, lines.get()));
    as_lazy(self)->set_filled();
  }
  return true;
  END_HANDLE_TH_ERRORS_RET(false)
}

bool fill_if_lazy(PyObject* object) {
  return !Py_IS_TYPE(object, &LazyTracebackType) || fill(object);
}

// --- list's own slots, after the items are made ------------------------------

const PySequenceMethods& list_sequence() {
  return *PyList_Type.tp_as_sequence;
}

const PyMappingMethods& list_mapping() {
  return *PyList_Type.tp_as_mapping;
}

PyObject* getattro(PyObject* self, PyObject* name) {
  return fill(self) ? PyObject_GenericGetAttr(self, name) : nullptr;
}

PyObject* repr(PyObject* self) {
  return fill(self) ? PyList_Type.tp_repr(self) : nullptr;
}

PyObject* iter(PyObject* self) {
  return fill(self) ? PyList_Type.tp_iter(self) : nullptr;
}

PyObject* richcompare(PyObject* self, PyObject* other, int op) {
  return fill(self) && fill_if_lazy(other)
      ? PyList_Type.tp_richcompare(self, other, op)
      : nullptr;
}

Py_ssize_t length(PyObject* self) {
  return fill(self) ? list_sequence().sq_length(self) : -1;
}

PyObject* item(PyObject* self, Py_ssize_t i) {
  return fill(self) ? list_sequence().sq_item(self, i) : nullptr;
}

int ass_item(PyObject* self, Py_ssize_t i, PyObject* value) {
  return fill(self) ? list_sequence().sq_ass_item(self, i, value) : -1;
}

int contains(PyObject* self, PyObject* value) {
  return fill(self) ? list_sequence().sq_contains(self, value) : -1;
}

PyObject* repeat(PyObject* self, Py_ssize_t times) {
  return fill(self) ? list_sequence().sq_repeat(self, times) : nullptr;
}

PyObject* inplace_concat(PyObject* self, PyObject* other) {
  return fill(self) ? list_sequence().sq_inplace_concat(self, other) : nullptr;
}

PyObject* inplace_repeat(PyObject* self, Py_ssize_t times) {
  return fill(self) ? list_sequence().sq_inplace_repeat(self, times) : nullptr;
}

PyObject* subscript(PyObject* self, PyObject* key) {
  return fill(self) ? list_mapping().mp_subscript(self, key) : nullptr;
}

int ass_subscript(PyObject* self, PyObject* key, PyObject* value) {
  return fill(self) ? list_mapping().mp_ass_subscript(self, key, value) : -1;
}

/// Python asks a number slot first, for both operands of + and +=; the lists'
/// own slots then find the items.
PyObject* before_add(PyObject* left, PyObject* right) {
  if (!fill_if_lazy(left) || !fill_if_lazy(right)) {
    return nullptr;
  }
  Py_RETURN_NOTIMPLEMENTED;
}

// --- What is our own ---------------------------------------------------------

PyObject* frames(PyObject* self, PyObject*) {
  HANDLE_TH_ERRORS
  return call_formatter(self, "to_frames").release();
  END_HANDLE_TH_ERRORS
}

/// Looked up on the type, past getattro.
PyObject* reversed(PyObject* self, PyObject*) {
  return fill(self) ? PyObject_CallMethod(
                          reinterpret_cast<PyObject*>(&PyList_Type),
                          "__reversed__",
                          "O",
                          self)
                    : nullptr;
}

/// Pickled and copied as the plain list that it stands for.
PyObject* reduce(PyObject* self, PyObject*) {
  HANDLE_TH_ERRORS
  Ref plain = checked(PySequence_List(self));
  return Py_BuildValue(
      "O(O)", reinterpret_cast<PyObject*>(&PyList_Type), plain.get());
  END_HANDLE_TH_ERRORS
}

void dealloc(PyObject* self) {
  PyObject_GC_UnTrack(self);
  LazyTraceback* lazy = as_lazy(self);
  for (Py_ssize_t i = 0; i < lazy->count; ++i) {
    Py_DECREF(lazy->positions[i].code);
  }
  PyMem_Free(lazy->positions);
  PyObject_GC_Track(self); // list's own end takes it out again
  PyList_Type.tp_dealloc(self);
}

PyMethodDef lazy_methods[] = {
    {"frames",
     frames,
     METH_NOARGS,
     PyDoc_STR("frames()\n--\n\n"
               "The stack as a list of (file, line, function, source line), "
               "outermost first.")},
    {"__reversed__", reversed, METH_NOARGS, nullptr},
    {"__reduce_ex__", reduce, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr}};

PySequenceMethods lazy_sequence{};
PyMappingMethods lazy_mapping{};
PyNumberMethods lazy_number{};

} // namespace

PyTypeObject LazyTracebackType{};

Ref capture_traceback() {
  Ref object = checked(LazyTracebackType.tp_alloc(&LazyTracebackType, 0));
  c10::SmallVector<Position, 128> positions;
  compat::for_each_frame([&](PyCodeObject* code, int instruction) {
    positions.push_back({code, instruction}); // takes over the reference
  });
  const auto count = static_cast<Py_ssize_t>(positions.size());
  auto* copy = static_cast<Position*>(
      PyMem_Malloc(std::max<size_t>(positions.size(), 1) * sizeof(Position)));
  if (copy == nullptr) {
    for (const Position& position : positions) {
      Py_DECREF(position.code);
    }
    PyErr_NoMemory();
    throw_python_error();
  }
  std::copy(positions.begin(), positions.end(), copy);
  LazyTraceback* lazy = as_lazy(object.get());
  lazy->positions = copy;
  lazy->count = count;
  return object;
}

bool init_lazy_traceback() {
  if (LazyTracebackType.tp_dict != nullptr) {
    return true;
  }
  lazy_sequence.sq_length = length;
  lazy_sequence.sq_repeat = repeat;
  lazy_sequence.sq_item = item;
  lazy_sequence.sq_ass_item = ass_item;
  lazy_sequence.sq_contains = contains;
  lazy_sequence.sq_inplace_concat = inplace_concat;
  lazy_sequence.sq_inplace_repeat = inplace_repeat;
  lazy_mapping.mp_length = length;
  lazy_mapping.mp_subscript = subscript;
  lazy_mapping.mp_ass_subscript = ass_subscript;
  lazy_number.nb_add = before_add;

  PyTypeObject& type = LazyTracebackType;
  Py_SET_REFCNT(reinterpret_cast<PyObject*>(&type), 1);
  type.tp_name = "torch_ext._C.LazyTraceback";
  type.tp_doc = PyDoc_STR(
      "The list of strings that traceback.format_stack() would have given, made "
      "when it is read.");
  type.tp_basicsize = sizeof(LazyTraceback);
  type.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
      Py_TPFLAGS_DISALLOW_INSTANTIATION;
  type.tp_base = &PyList_Type;
  type.tp_dealloc = dealloc;
  type.tp_traverse = PyList_Type.tp_traverse; // code objects are in no cycle
  type.tp_clear = PyList_Type.tp_clear;
  type.tp_getattro = getattro;
  type.tp_repr = repr;
  type.tp_iter = iter;
  type.tp_richcompare = richcompare;
  type.tp_hash = PyObject_HashNotImplemented;
  type.tp_as_sequence = &lazy_sequence;
  type.tp_as_mapping = &lazy_mapping;
  type.tp_as_number = &lazy_number;
  type.tp_methods = lazy_methods;
  return PyType_Ready(&type) == 0;
}

} // namespace torch_ext
