// SPDX-License-Identifier: BSD-3-Clause
// torch_ext._C: what Python can call, and nothing else.
#include <anomaly/anomaly_engine.h>
#include <anomaly/checks.h>
#include <anomaly/deferred.h>
#include <anomaly/finite.h>
#include <anomaly/reporting_engine.h>
#include <anomaly/saved_sums.h>
#include <compat.h>
#include <function/ctx/ctx.h>
#include <function/ctx/gc.h>
#include <function/ctx/type.h>
#include <function/forward/accelerated_apply.h>
#include <function/forward/apply_callable.h>
#include <function/forward/backward_cls.h>
#include <function/forward/class_record.h>
#include <function/forward/self_view.h>
#include <function/torch_own.h>
#include <hooks/register.h>
#include <notes/lazy_traceback.h>
#include <notes/metadata_dict.h>
#include <notes/methods.h>
#include <python/error.h>
#include <python/exit_status.h>
#include <python/method.h>
#include <python/names.h>
#include <tracer/bindings.h>

namespace {

using torch_ext::check_status;
using torch_ext::Ref;

PyDoc_STRVAR(
    anomaly_doc,
    "use_our_anomaly_metadata(ours, /)\n--\n\n"
    "Decides whether nodes get torch_ext's metadata in anomaly mode from now "
    "on.\n"
    "Returns what held before.");

PyObject* py_use_our_anomaly_metadata(PyObject*, PyObject* ours) {
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
    checks_doc,
    "set_anomaly_checks(loss, inf, forward=False, saved=False, every=-1, /)\n--\n\n"
    "Decides what anomaly mode checks besides NaN in backward: what backward is\n"
    "called on, whether gradients are infinite, what operators return, and\n"
    "what nodes have saved. Returns what held before.");

PyDoc_STRVAR(
    engine_doc,
    "make_reporting_engine(engine, /)\n--\n\n"
    "An engine like torch's `engine` that reports on a backward that fails in\n"
    "anomaly mode.");

PyDoc_STRVAR(
    changed_doc,
    "changed_saved(node, /)\n--\n\n"
    "(tensor, its number, how many are saved) of what the node has saved and\n"
    "has changed since; None if nothing has.");

PyDoc_STRVAR(
    late_doc,
    "take_late_evidence()\n--\n\n"
    "[(node, tuple of what it had saved)] of nodes that ran after the one that a\n"
    "deferred check has named on this thread. Forgets it.");

PyDoc_STRVAR(
    readable_doc,
    "can_be_read(tensor, /)\n--\n\n"
    "Whether operators can read the tensor's values while no code of a subclass,\n"
    "a mode or a transform of torch.func runs: without memory they would crash.");

PyDoc_STRVAR(
    numbers_doc,
    "has_numbers(tensor, /)\n--\n\n"
    "Whether the tensor's numbers may be not finite, and can be read without\n"
    "code of a subclass, a mode or a transform of torch.func.");

PyDoc_STRVAR(
    root_doc,
    "node_of_root(tensor, /)\n--\n\n"
    "The node that a backward from the tensor starts at; None if there is "
    "none.");

PyDoc_STRVAR(
    apply_for_doc,
    "apply_for(cls, /)\n--\n\n"
    "What accelerate() puts into `cls`: `apply`, which pickles by value don't "
    "send.");

PyDoc_STRVAR(
    framed_doc,
    "set_framed_apply(function, get_callback, /)\n--\n\n"
    "What apply calls while somebody looks at frames or calls: profilers of\n"
    "Python's, torch.jit.trace while it records, and torch.compile on threads on\n"
    "which get_callback() is not None. It gets a method of C++, which does the\n"
    "work, and the arguments: the class, and the method's own.");

PyDoc_STRVAR(
    backports_doc,
    "give_backports(cls, of_ctx, /)\n--\n\n"
    "Lets the subclasses of `cls` have what newer releases of torch have; their\n"
    "ctx gets the attributes in the dict `of_ctx`.");

PyDoc_STRVAR(
    fail_doc,
    "fail_at_exit(status, /)\n--\n\n"
    "Lets the process end with `status` if it would end with 0.");

PyMethodDef methods[] = {
    {"apply_for", torch_ext::py_apply_for, METH_O, apply_for_doc},
    {"set_framed_apply",
     torch_ext::py_set_framed_apply,
     METH_VARARGS,
     framed_doc},
    {"give_backports",
     torch_ext::py_give_backports,
     METH_VARARGS,
     backports_doc},
    {"fail_at_exit", torch_ext::py_fail_at_exit, METH_O, fail_doc},
    {"make_reporting_engine",
     torch_ext::py_make_reporting_engine,
     METH_O,
     engine_doc},
    {"can_be_read", torch_ext::py_can_be_read, METH_O, readable_doc},
    {"changed_saved", torch_ext::py_changed_saved, METH_O, changed_doc},
    {"has_numbers", torch_ext::py_has_numbers, METH_O, numbers_doc},
    {"node_of_root", torch_ext::py_node_of_root, METH_O, root_doc},
    {"set_anomaly_checks",
     torch_ext::py_set_anomaly_checks,
     METH_VARARGS,
     checks_doc},
    {"take_late_evidence",
     torch_ext::py_take_late_evidence,
     METH_NOARGS,
     late_doc},
    {"use_our_anomaly_metadata",
     py_use_our_anomaly_metadata,
     METH_O,
     anomaly_doc},
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

void init_globals() {
  torch_ext::init_names();
  torch_ext::init_torch_own();
  torch_ext::init_ctx_types();
  torch_ext::init_collections();
  torch_ext::init_backward_cls();
  torch_ext::init_class_records();
  torch_ext::init_self_views();
  torch_ext::init_metadata_dict();
  torch_ext::init_lazy_traceback();
}

Ref make_module() {
  Ref module = torch_ext::checked(PyModule_Create(&definition));
  torch_ext::compat::need_no_gil(module.get());
  const auto add = [&](const char* name, const Ref& value) {
    check_status(PyModule_AddObjectRef(module.get(), name, value.get()));
  };
  const auto add_type = [&](const char* name, PyTypeObject& type) {
    add(name, Ref::share(reinterpret_cast<PyObject*>(&type)));
  };
  const Ref apply = torch_ext::make_apply();
  torch_ext::init_accelerated_apply(apply.get());
  add("apply", apply);
  add("torch_function", Ref::share(torch_ext::torch_own.function));
  add("torch_apply", Ref::share(torch_ext::torch_own.apply_in_class));
  add("kept", torch_ext::checked(PyDict_New()));
  add("output_grad_dtypes", torch_ext::new_output_grad_dtypes());
  add_type("Ctx", torch_ext::CtxType);
  add_type("LazyTraceback", torch_ext::LazyTracebackType);
  check_status(PyModule_AddFunctions(module.get(), torch_ext::hook_methods));
  check_status(PyModule_AddFunctions(module.get(), torch_ext::notes_methods));
  torch_ext::add_tracer_methods(module.get());
  check_status(
      PyModule_AddStringConstant(module.get(), "torch_version", TORCH_VERSION));
  return module;
}

#define TORCH_EXT_CONCAT_(a, b) a##b
#define TORCH_EXT_CONCAT(a, b) TORCH_EXT_CONCAT_(a, b)

} // namespace

PyMODINIT_FUNC TORCH_EXT_CONCAT(PyInit_, TORCH_EXTENSION_NAME)() {
  HANDLE_TH_ERRORS
  init_globals();
  return make_module().release();
  END_HANDLE_TH_ERRORS
}
