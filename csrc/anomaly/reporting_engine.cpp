#include <anomaly/reporting_engine.h>

#include <python/gil.h>
#include <python/method.h>
#include <python/ref.h>
#include <python/tensor.h>

#include <c10/util/SmallVector.h>
#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/variable.h>

namespace torch_ext {

namespace {

// torch's run_backward, a method descriptor; owned for the life of the process.
PyObject* torch_run_backward = nullptr;

/// Lets the report see the exception that is set, and leaves that set. A report
/// that fails must not hide it.
void finish_report(PyObject* roots) {
  PyObject* type = nullptr;
  PyObject* value = nullptr;
  PyObject* traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  if (traceback != nullptr) {
    PyException_SetTraceback(value, traceback);
  }
  Ref module =
      Ref::steal(PyImport_ImportModule("torch_ext._anomaly_report"));
  Ref result = module ? Ref::steal(PyObject_CallMethod(
                            module.get(), "finish", "OO", value, roots))
                      : Ref();
  if (!result) {
    PyErr_WriteUnraisable(roots);
  }
  PyErr_Restore(type, value, traceback);
}

PyObject* run_backward(
    PyObject* self,
    PyObject* const* args,
    Py_ssize_t count,
    PyObject* keywords) {
  const Py_ssize_t named = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  c10::SmallVector<PyObject*, 16> stack{self};
  stack.append(args, args + count + named);
  PyObject* result = PyObject_Vectorcall(
      torch_run_backward, stack.data(), static_cast<size_t>(count) + 1, keywords);
  if (result == nullptr && count > 0 &&
      torch::autograd::AnomalyMode::is_enabled()) {
    finish_report(args[0]);
  }
  return result;
}

PyMethodDef engine_methods[] = {
    {"run_backward",
     torch_ext::as_method(run_backward),
     METH_FASTCALL | METH_KEYWORDS,
     nullptr},
    {nullptr, nullptr, 0, nullptr}};

PyTypeObject ReportingEngineType{};

bool init_type(PyTypeObject* base) {
  if (ReportingEngineType.tp_dict != nullptr) {
    return true;
  }
  torch_run_backward =
      PyObject_GetAttrString(reinterpret_cast<PyObject*>(base), "run_backward");
  if (torch_run_backward == nullptr) {
    return false;
  }
  PyTypeObject& type = ReportingEngineType;
  Py_SET_REFCNT(reinterpret_cast<PyObject*>(&type), 1);
  type.tp_name = base->tp_name;
  type.tp_flags = Py_TPFLAGS_DEFAULT;
  type.tp_base = base;
  type.tp_methods = engine_methods;
  return PyType_Ready(&type) == 0;
}

} // namespace

PyObject* make_reporting_engine(PyObject*, PyObject* engine) {
  if (!init_type(Py_TYPE(engine))) {
    return nullptr;
  }
  if (!PyObject_TypeCheck(engine, ReportingEngineType.tp_base)) {
    return PyErr_Format(
        PyExc_TypeError,
        "expected torch's engine, got %s",
        Py_TYPE(engine)->tp_name);
  }
  return PyObject_CallNoArgs(reinterpret_cast<PyObject*>(&ReportingEngineType));
}

PyObject* node_of_root(PyObject*, PyObject* tensor) {
  HANDLE_TH_ERRORS
  const at::Tensor root = THPVariable_Unpack(require_tensor(tensor));
  torch::autograd::Edge edge;
  {
    // It takes locks of torch's.
    NoGil no_gil;
    edge = torch::autograd::impl::gradient_edge(root);
  }
  return torch::autograd::functionToPyObject(edge.function);
  END_HANDLE_TH_ERRORS
}

} // namespace torch_ext
