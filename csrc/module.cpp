// torch_ext._C: what Python can call, and nothing else.
#include <anomaly/anomaly_engine.h>
#include <anomaly/lazy_traceback.h>
#include <anomaly/reporting_engine.h>
#include <function/apply_callable.h>
#include <function/class_record.h>
#include <function/state.h>
#include <function/user_backward.h>
#include <hooks/register.h>
#include <python/method.h>
#include <python/names.h>
#include <python/ref.h>
#include <tracer/bindings.h>

namespace {

PyDoc_STRVAR(
    classes_doc,
    "classes_with_state_type()\n--\n\n"
    "The Function classes whose _backward_cls torch_ext has put its own class in\n"
    "the place of.");

PyObject* classes_with_state_type(PyObject*, PyObject*) {
  return torch_ext::classes_with_state_type();
}

PyDoc_STRVAR(
    anomaly_doc,
    "use_our_anomaly_metadata(ours, /)\n--\n\n"
    "Whether nodes get torch_ext's metadata in anomaly mode from now on; returns\n"
    "what held before.");

PyObject* use_our_anomaly_metadata(PyObject*, PyObject* ours) {
  if (!PyBool_Check(ours)) {
    return PyErr_Format(
        PyExc_TypeError,
        "use_our_anomaly_metadata() takes a bool, got %s",
        Py_TYPE(ours)->tp_name);
  }
  HANDLE_TH_ERRORS
  return PyBool_FromLong(torch_ext::use_our_anomaly_metadata(ours == Py_True));
  END_HANDLE_TH_ERRORS
}

PyDoc_STRVAR(
    engine_doc,
    "make_reporting_engine(engine, /)\n--\n\n"
    "An engine like torch's `engine` that reports on a backward that fails in\n"
    "anomaly mode.");

PyDoc_STRVAR(
    root_doc,
    "node_of_root(tensor, /)\n--\n\n"
    "The node that a backward from the tensor starts at; None where it starts at\n"
    "none.");

PyDoc_STRVAR(
    call_doc,
    "call(cls, /, *args, **kwargs)\n--\n\n"
    "Calls the custom Function without a Python frame for the call itself.");

PyDoc_STRVAR(
    framed_doc,
    "set_framed_apply(function, get_callback, /)\n--\n\n"
    "What apply calls in place of call() where somebody looks at frames: while\n"
    "torch.jit.trace records, and where torch.compile looks at them, which is\n"
    "where get_callback() gives something.");

PyDoc_STRVAR(
    backports_doc,
    "give_backports(cls, of_ctx, /)\n--\n\n"
    "Lets the subclasses of `cls` have what newer releases of torch have; their\n"
    "ctx gets the attributes in the dict `of_ctx`.");

PyMethodDef methods[] = {
    {"call",
     torch_ext::as_method(torch_ext::call),
     METH_FASTCALL | METH_KEYWORDS,
     call_doc},
    {"set_framed_apply", torch_ext::set_framed_apply, METH_VARARGS, framed_doc},
    {"give_backports",
     torch_ext::give_backports,
     METH_VARARGS,
     backports_doc},
    {"make_reporting_engine",
     torch_ext::make_reporting_engine,
     METH_O,
     engine_doc},
    {"node_of_root", torch_ext::node_of_root, METH_O, root_doc},
    {"use_our_anomaly_metadata", use_our_anomaly_metadata, METH_O, anomaly_doc},
    {"classes_with_state_type",
     classes_with_state_type,
     METH_NOARGS,
     classes_doc},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    "torch_ext._C",
    PyDoc_STR("The C++ part of torch_ext."),
    -1,
    methods,
    nullptr,
    nullptr,
    nullptr,
    nullptr};

#define TORCH_EXT_CONCAT_(a, b) a##b
#define TORCH_EXT_CONCAT(a, b) TORCH_EXT_CONCAT_(a, b)

} // namespace

PyMODINIT_FUNC TORCH_EXT_CONCAT(PyInit_, TORCH_EXTENSION_NAME)() {
  using torch_ext::Ref;
  if (!torch_ext::init_names() || !torch_ext::init_state_types() ||
      !torch_ext::init_class_records() ||
      !torch_ext::init_lazy_traceback() || !torch_ext::init_user_backward()) {
    return nullptr;
  }
  Ref apply = Ref::steal(torch_ext::make_apply());
  Ref module = apply ? Ref::steal(PyModule_Create(&definition)) : Ref();
  Ref grad_dtypes =
      module ? Ref::steal(torch_ext::new_output_grad_dtypes()) : Ref();
  if (!grad_dtypes || !torch_ext::compat::need_no_gil(module.get()) ||
      PyModule_AddObjectRef(module.get(), "apply", apply.get()) < 0 ||
      PyModule_AddObjectRef(
          module.get(), "output_grad_dtypes", grad_dtypes.get()) < 0 ||
      PyModule_AddFunctions(module.get(), torch_ext::hook_methods) < 0 ||
      !torch_ext::add_tracer_methods(module.get()) ||
      PyModule_AddObjectRef(
          module.get(),
          "FunctionState",
          reinterpret_cast<PyObject*>(&torch_ext::StateType)) < 0 ||
      PyModule_AddObjectRef(
          module.get(),
          "LazyTraceback",
          reinterpret_cast<PyObject*>(&torch_ext::LazyTracebackType)) < 0 ||
      PyModule_AddStringConstant(
          module.get(), "torch_version", TORCH_VERSION) < 0) {
    return nullptr;
  }
  return module.release();
}
