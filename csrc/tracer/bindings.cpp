// SPDX-License-Identifier: BSD-3-Clause
#include <tracer/bindings.h>

#include <python/error.h>
#include <python/method.h>
#include <python/tensor.h>
#include <tracer/trace_arguments.h>

#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/python/pybind.h>
#include <torch/csrc/jit/python/python_tracer.h>

#include <memory>
#include <utility>

namespace torch_ext {

namespace {

namespace tracer = torch::jit::tracer;

/// (graph, [output, ...])
Ref to_python(
    const std::pair<std::shared_ptr<torch::jit::Graph>, torch::jit::Stack>&
        graph_and_outputs) {
  py::list outputs;
  for (const c10::IValue& value : graph_and_outputs.second) {
    outputs.append(torch::jit::toPyObject(value));
  }
  return Ref::steal(
      py::make_tuple(graph_and_outputs.first, outputs).release().ptr());
}

PyDoc_STRVAR(
    create_graph_doc,
    "create_graph_by_tracing(func, inputs, var_name_lookup_fn=None, "
    "strict=True,\n"
    "                        force_outplace=False, self=None, "
    "argument_names=())\n"
    "--\n\n"
    "Calls ``func(*inputs)`` and records its operators, as\n"
    "``torch._C._create_graph_by_tracing`` does.\n"
    "\n"
    "Args:\n"
    "    func: what is traced. A tensor that occurs twice among the inputs comes\n"
    "        to it as a view the second time.\n"
    "    inputs: tensors, and tuples, lists and dicts of them.\n"
    "    var_name_lookup_fn: is called with a tensor and gives the name that the\n"
    "        graph shows for it, '' for none. By default none has a name.\n"
    "    strict: whether a list or a dict as the result is an error.\n"
    "    force_outplace: whether in-place operators are recorded as the "
    "others.\n"
    "    self: a script module; its parameters and buffers are known by name.\n"
    "    argument_names: names for the inputs, in their order.\n"
    "\n"
    "Returns:\n"
    "    The graph, and a list with what ``func`` returned.\n"
    "\n"
    "Raises:\n"
    "    TypeError: an argument is of the wrong type.\n"
    "    RuntimeError: ``func`` returned None, or an input or the result is\n"
    "        nothing that can be traced.");

PyObject* py_create_graph_by_tracing(
    PyObject*,
    PyObject* arguments,
    PyObject* keywords) {
  HANDLE_TH_ERRORS
  const TraceArguments a(/*by_name=*/false, arguments, keywords);
  return to_python(
             tracer::createGraphByTracing(
                 a.traced(),
                 a.stack(),
                 a.variable_name(),
                 a.strict != 0,
                 a.force_outplace != 0,
                 a.module(),
                 a.names()))
      .release();
  END_HANDLE_TH_ERRORS
}

PyDoc_STRVAR(
    create_graph_with_dict_doc,
    "create_graph_by_tracing_with_dict(func, inputs_dict, inputs=(),\n"
    "                                  var_name_lookup_fn=None, strict=True,\n"
    "                                  force_outplace=False, self=None,\n"
    "                                  argument_names=())\n"
    "--\n\n"
    "Calls ``func(**inputs_dict)`` and records its operators, as\n"
    "``torch.jit.trace(func, example_kwarg_inputs=inputs_dict)`` does.\n"
    "\n"
    "Args:\n"
    "    inputs_dict: the arguments by name.\n"
    "    inputs: checked and not used, as in torch.\n"
    "    argument_names: the parameters of ``func`` in their order. The graph has\n"
    "        an input for each that is in ``inputs_dict``; any other tensor there\n"
    "        is a constant of the graph.\n"
    "\n"
    "Everything else is as for :func:`create_graph_by_tracing`.");

PyObject* py_create_graph_by_tracing_with_dict(
    PyObject*,
    PyObject* arguments,
    PyObject* keywords) {
  HANDLE_TH_ERRORS
  const TraceArguments a(/*by_name=*/true, arguments, keywords);
  return to_python(
             tracer::createGraphByTracingWithDict(
                 a.traced(),
                 a.named_inputs(),
                 a.stack(),
                 a.variable_name(),
                 a.strict != 0,
                 a.force_outplace != 0,
                 a.module(),
                 a.names()))
      .release();
  END_HANDLE_TH_ERRORS
}

PyDoc_STRVAR(
    get_tracing_state_doc,
    "get_tracing_state()\n--\n\n"
    "What the tracer records into on this thread; None where it records "
    "nothing.\n"
    "\n"
    "The state's ``graph()`` is the graph so far; ``push_scope(name)``,\n"
    "``pop_scope()`` and ``current_scope()`` group the nodes that come.");

PyObject* py_get_tracing_state(PyObject*, PyObject*) {
  HANDLE_TH_ERRORS
  return py::cast(tracer::getTracingState()).release().ptr();
  END_HANDLE_TH_ERRORS
}

PyDoc_STRVAR(
    set_tracing_state_doc,
    "set_tracing_state(state, /)\n--\n\n"
    "Records into ``state`` from now on, on this thread; None ends recording.\n"
    "\n"
    "Raises:\n"
    "    TypeError: ``state`` is something else.");

PyObject* py_set_tracing_state(PyObject*, PyObject* state) {
  HANDLE_TH_ERRORS
  const py::handle object(state);
  if (!object.is_none() && !py::isinstance<tracer::TracingState>(object)) {
    raise(
        PyExc_TypeError,
        "set_tracing_state: expected a TracingState or None, got %s.",
        Py_TYPE(state)->tp_name);
  }
  tracer::setTracingState(
      object.is_none() ? nullptr
                       : object.cast<std::shared_ptr<tracer::TracingState>>());
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

/// The tensor that `function` is asked about, during a trace. Throws otherwise.
const at::Tensor& traced_tensor(const char* function, PyObject* object) {
  if (!has_tensor_type(object)) {
    raise(
        PyExc_TypeError,
        "%s: expected a Tensor, got %s.",
        function,
        Py_TYPE(object)->tp_name);
  }
  if (!tracer::isTracing()) {
    raise(
        PyExc_RuntimeError,
        "%s: no trace is being recorded on this thread. Call it inside the "
        "function that is traced.",
        function);
  }
  return THPVariable_Unpack(object);
}

PyDoc_STRVAR(
    get_value_trace_doc,
    "get_value_trace(var, /)\n--\n\n"
    "The graph's value for a tensor. One from outside the trace becomes a\n"
    "constant.\n"
    "\n"
    "Raises:\n"
    "    TypeError: ``var`` is no tensor.\n"
    "    RuntimeError: nothing is being traced, or the tensor is from outside and\n"
    "        requires grad.");

PyObject* py_get_value_trace(PyObject*, PyObject* tensor) {
  HANDLE_TH_ERRORS
  return py::cast(
             tracer::getValueTrace(traced_tensor("get_value_trace", tensor)),
             py::return_value_policy::reference)
      .release()
      .ptr();
  END_HANDLE_TH_ERRORS
}

PyDoc_STRVAR(
    set_value_trace_doc,
    "set_value_trace(var, value, /)\n--\n\n"
    "Makes ``value`` the graph's value for a tensor from now on.\n"
    "\n"
    "Raises:\n"
    "    TypeError: ``var`` is no tensor, or ``value`` no value of a graph.\n"
    "    RuntimeError: nothing is being traced, or the value's graph is gone.");

PyObject* py_set_value_trace(PyObject*, PyObject* arguments) {
  HANDLE_TH_ERRORS
  PyObject *tensor = nullptr, *value = nullptr;
  if (!PyArg_ParseTuple(arguments, "OO:set_value_trace", &tensor, &value)) {
    return nullptr;
  }
  const at::Tensor& variable = traced_tensor("set_value_trace", tensor);
  if (!py::isinstance<torch::jit::Value>(value)) {
    raise(
        PyExc_TypeError,
        "set_value_trace: expected a torch.Value, got %s.",
        Py_TYPE(value)->tp_name);
  }
  tracer::setValueTrace(variable, py::handle(value).cast<torch::jit::Value*>());
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

PyDoc_STRVAR(
    source_range_doc,
    "source_range()\n--\n\n"
    "Where the caller is, as a SourceRange: the line of its innermost Python\n"
    "frame, and the whole stack as the text.");

PyObject* py_source_range(PyObject*, PyObject*) {
  HANDLE_TH_ERRORS
  return py::cast(tracer::getPythonInterpreterSourceRange()).release().ptr();
  END_HANDLE_TH_ERRORS
}

PyMethodDef tracer_methods[] = {
    {"create_graph_by_tracing",
     as_method(py_create_graph_by_tracing),
     METH_VARARGS | METH_KEYWORDS,
     create_graph_doc},
    {"create_graph_by_tracing_with_dict",
     as_method(py_create_graph_by_tracing_with_dict),
     METH_VARARGS | METH_KEYWORDS,
     create_graph_with_dict_doc},
    {"get_tracing_state",
     py_get_tracing_state,
     METH_NOARGS,
     get_tracing_state_doc},
    {"set_tracing_state", py_set_tracing_state, METH_O, set_tracing_state_doc},
    {"get_value_trace", py_get_value_trace, METH_O, get_value_trace_doc},
    {"set_value_trace", py_set_value_trace, METH_VARARGS, set_value_trace_doc},
    {"source_range", py_source_range, METH_NOARGS, source_range_doc},
    {nullptr, nullptr, 0, nullptr}};

} // namespace

void add_tracer_methods(PyObject* module) {
  tracer::initPythonTracerBindings(module);
}

} // namespace torch_ext

// torch's own, defined a second time: docs/architecture.md says why.
namespace torch::jit::tracer {

/// Adds the functions of torch_ext.tracer, and does nothing else that torch's
/// own does: the type of the tracing state is registered with pybind11 already,
/// and the callbacks that give torch's own nodes their source can't be read, so
/// nobody could put them back.
void initPythonTracerBindings(PyObject* module) {
  torch_ext::check_status(
      PyModule_AddFunctions(module, torch_ext::tracer_methods));
}

} // namespace torch::jit::tracer
