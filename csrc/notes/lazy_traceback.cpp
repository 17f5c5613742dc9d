// SPDX-License-Identifier: BSD-3-Clause
#include <notes/lazy_traceback.h>

#include <compat.h>
#include <python/error.h>

#include <memory>
#include <utility>

namespace torch_ext {

namespace {

/// format_lines(positions) and to_frames(positions).
constexpr const char* kTracebackModule = "torch_ext.anomaly.traceback";

/// [(file, line, function)], outermost first.
Ref to_summaries(const LazyTraceback& lazy) {
  const Stack& stack = lazy.stack;
  const size_t count = stack.size();
  Ref list = checked(PyList_New(static_cast<Py_ssize_t>(count)));
  for (size_t i = 0; i < count; ++i) {
    PyCodeObject* code = stack.code(count - 1 - i);
    Ref item = checked(Py_BuildValue(
        "(OiO)",
        code->co_filename,
        PyCode_Addr2Line(code, stack.instruction(count - 1 - i)),
        code->co_name));
    PyList_SET_ITEM(list.get(), static_cast<Py_ssize_t>(i), item.release());
  }
  return list;
}

/// Calls a function of torch_ext.anomaly.traceback on the stack.
Ref call_formatter(PyObject* self, const char* function) {
  Ref module = checked(PyImport_ImportModule(kTracebackModule));
  Ref summaries = to_summaries(*as_lazy(self));
  return checked(
      PyObject_CallMethod(module.get(), function, "O", summaries.get()));
}

// Guards the filling on Python without a GIL.
compat::Mutex filling;

/// The first step of each slot: makes the items if they are not made yet.
/// Returns false with an exception set, as the slot then does.
bool py_fill(PyObject* self) {
  HANDLE_TH_ERRORS
  if (as_lazy(self)->is_filled()) {
    return true;
  }
  Ref lines = call_formatter(self, "format_lines");
  // Another thread may have been quicker while Python code ran.
  const compat::Lock lock(filling);
  if (!as_lazy(self)->is_filled()) {
    check_status(PyList_SetSlice(self, 0, 0, lines.get()));
    as_lazy(self)->set_filled();
  }
  return true;
  END_HANDLE_TH_ERRORS_RET(false)
}

bool py_fill_if_lazy(PyObject* object) {
  return !Py_IS_TYPE(object, &LazyTracebackType) || py_fill(object);
}

// --- list's own slots, after the items are made ------------------------------

const PySequenceMethods& list_sequence() {
  return *PyList_Type.tp_as_sequence;
}

const PyMappingMethods& list_mapping() {
  return *PyList_Type.tp_as_mapping;
}

PyObject* getattro(PyObject* self, PyObject* name) {
  return py_fill(self) ? PyObject_GenericGetAttr(self, name) : nullptr;
}

PyObject* repr(PyObject* self) {
  return py_fill(self) ? PyList_Type.tp_repr(self) : nullptr;
}

PyObject* iter(PyObject* self) {
  return py_fill(self) ? PyList_Type.tp_iter(self) : nullptr;
}

PyObject* richcompare(PyObject* self, PyObject* other, int op) {
  return py_fill(self) && py_fill_if_lazy(other)
      ? PyList_Type.tp_richcompare(self, other, op)
      : nullptr;
}

Py_ssize_t length(PyObject* self) {
  return py_fill(self) ? list_sequence().sq_length(self) : -1;
}

PyObject* item(PyObject* self, Py_ssize_t i) {
  return py_fill(self) ? list_sequence().sq_item(self, i) : nullptr;
}

int ass_item(PyObject* self, Py_ssize_t i, PyObject* value) {
  return py_fill(self) ? list_sequence().sq_ass_item(self, i, value) : -1;
}

int contains(PyObject* self, PyObject* value) {
  return py_fill(self) ? list_sequence().sq_contains(self, value) : -1;
}

PyObject* repeat(PyObject* self, Py_ssize_t times) {
  return py_fill(self) ? list_sequence().sq_repeat(self, times) : nullptr;
}

PyObject* inplace_concat(PyObject* self, PyObject* other) {
  return py_fill(self) ? list_sequence().sq_inplace_concat(self, other)
                       : nullptr;
}

PyObject* inplace_repeat(PyObject* self, Py_ssize_t times) {
  return py_fill(self) ? list_sequence().sq_inplace_repeat(self, times)
                       : nullptr;
}

PyObject* subscript(PyObject* self, PyObject* key) {
  return py_fill(self) ? list_mapping().mp_subscript(self, key) : nullptr;
}

int ass_subscript(PyObject* self, PyObject* key, PyObject* value) {
  return py_fill(self) ? list_mapping().mp_ass_subscript(self, key, value) : -1;
}

/// For + and +=. Python asks the number slot of both operands before it asks
/// the lists' own slots, which then find the items.
PyObject* before_add(PyObject* left, PyObject* right) {
  if (!py_fill_if_lazy(left) || !py_fill_if_lazy(right)) {
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

/// reversed() looks the method up on the type, past getattro.
PyObject* reversed(PyObject* self, PyObject*) {
  return py_fill(self) ? PyObject_CallMethod(
                             reinterpret_cast<PyObject*>(&PyList_Type),
                             "__reversed__",
                             "O",
                             self)
                       : nullptr;
}

/// It is pickled and copied as a plain list.
PyObject* reduce(PyObject* self, PyObject*) {
  HANDLE_TH_ERRORS
  Ref plain = checked(PySequence_List(self));
  return Py_BuildValue(
      "O(O)", reinterpret_cast<PyObject*>(&PyList_Type), plain.get());
  END_HANDLE_TH_ERRORS
}

void dealloc(PyObject* self) {
  PyObject_GC_UnTrack(self);
  std::destroy_at(&as_lazy(self)->stack);
  PyObject_GC_Track(self); // as list's dealloc expects to find it
  PyList_Type.tp_dealloc(self);
}

PyMethodDef lazy_methods[] = {
    {"frames",
     frames,
     METH_NOARGS,
     PyDoc_STR(
         "frames($self, /)\n--\n\n"
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

Ref to_traceback(Stack stack) {
  Ref object = checked(LazyTracebackType.tp_alloc(&LazyTracebackType, 0));
  std::construct_at(&as_lazy(object.get())->stack, std::move(stack));
  return object;
}

void init_lazy_traceback() {
  if (LazyTracebackType.tp_dict != nullptr) {
    return;
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
      "The list of strings that traceback.format_stack() would have given, "
      "made when it is read.");
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
  check_status(PyType_Ready(&type));
}

} // namespace torch_ext
