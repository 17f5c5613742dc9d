#include <tracer/bindings.h>

#include <python/error.h>
#include <python/method.h>
#include <tracer/trace_arguments.h>

#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/python/pybind.h>
#include <torch/csrc/jit/python/python_tracer.h>

namespace torch_ext {

namespace {

namespace tracer = torch::jit::tracer;

/// (graph, [output, ...])
PyObject* graph_and_outputs(
    const std::pair<std::shared_ptr<torch::jit::Graph>, torch::jit::Stack>&
        result) {
  py::list outputs;
  for (const c10::IValue& value : result.second) {
    outputs.append(torch::jit::toPyObject(value));
  }
  return py::make_tuple(result.first, outputs).release().ptr();
}

PyDoc_STRVAR(
    create_graph_doc,
    "create_graph_by_tracing(func, inputs, var_name_lookup_fn=None, strict=True,\n"
    "                        force_outplace=False, self=None, argument_names=())\n"
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
    "    force_outplace: whether in-place operators are recorded as the others.\n"
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

PyObject* create_graph_by_tracing(
    PyObject*,
    PyObject* arguments,
    PyObject* keywords) {
  HANDLE_TH_ERRORS
  static const char* names[] = {
      "func",
      "inputs",
      "var_name_lookup_fn",
      "strict",
      "force_outplace",
      "self",
      "argument_names",
      nullptr};
  TraceArguments a{"create_graph_by_tracing"};
  if (!PyArg_ParseTupleAndKeywords(
          arguments,
          keywords,
          "OO|OppOO:create_graph_by_tracing",
          const_cast<char**>(names),
          &a.func,
          &a.inputs,
          &a.var_name_lookup_fn,
          &a.strict,
          &a.force_outplace,
          &a.self,
          &a.argument_names)) {
    return nullptr;
  }
  return graph_and_outputs(tracer::createGraphByTracing(
      a.traced(),
      a.stack(),
      a.variable_name(),
      a.strict != 0,
      a.force_outplace != 0,
      a.module(),
      a.names()));
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

PyObject* create_graph_by_tracing_with_dict(
    PyObject*,
    PyObject* arguments,
    PyObject* keywords) {
  HANDLE_TH_ERRORS
  static const char* names[] = {
      "func",
      "inputs_dict",
      "inputs",
      "var_name_lookup_fn",
      "strict",
      "force_outplace",
      "self",
      "argument_names",
      nullptr};
  TraceArguments a{"create_graph_by_tracing_with_dict"};
  if (!PyArg_ParseTupleAndKeywords(
          arguments,
          keywords,
          "OO|OOppOO:create_graph_by_tracing_with_dict",
          const_cast<char**>(names),
          &a.func,
          &a.inputs_dict,
          &a.inputs,
          &a.var_name_lookup_fn,
          &a.strict,
          &a.force_outplace,
          &a.self,
          &a.argument_names)) {
    return nullptr;
  }
  return graph_and_outputs(tracer::createGraphByTracingWithDict(
      a.traced(),
      a.named_inputs(),
      a.stack(),
      a.variable_name(),
      a.strict != 0,
      a.force_outplace != 0,
      a.module(),
      a.names()));
  END_HANDLE_TH_ERRORS
}

PyDoc_STRVAR(
    get_tracing_state_doc,
    "get_tracing_state()\n--\n\n"
    "What the tracer records into on this thread; None where it records nothing.\n"
    "\n"
    "The state's ``graph()`` is the graph so far; ``push_scope(name)``,\n"
    "``pop_scope()`` and ``current_scope()`` group the nodes that come.");

PyObject* get_tracing_state(PyObject*, PyObject*) {
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

PyObject* set_tracing_state(PyObject*, PyObject* state) {
  HANDLE_TH_ERRORS
  const py::handle object(state);
  if (!object.is_none() && !py::isinstance<tracer::TracingState>(object)) {
    raise(
        PyExc_TypeError,
        "set_tracing_state: expected a TracingState or None, got %s.",
        Py_TYPE(state)->tp_name);
  }
  tracer::setTracingState(
      object.is_none()
          ? nullptr
          : object.cast<std::shared_ptr<tracer::TracingState>>());
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

/// The tensor whose value `function` is asked for, in a trace. Throws.
const at::Tensor& traced_tensor(const char* function, PyObject* object) {
  if (!THPVariable_Check(object)) {
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

PyObject* get_value_trace(PyObject*, PyObject* tensor) {
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

PyObject* set_value_trace(PyObject*, PyObject* arguments) {
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
  tracer::setValueTrace(
      variable, py::handle(value).cast<torch::jit::Value*>());
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

PyDoc_STRVAR(
    source_range_doc,
    "source_range()\n--\n\n"
    "Where the caller is, as a SourceRange: the line of its innermost Python\n"
    "frame, and the whole stack as the text.");

PyObject* source_range(PyObject*, PyObject*) {
  HANDLE_TH_ERRORS
  return py::cast(tracer::getPythonInterpreterSourceRange()).release().ptr();
  END_HANDLE_TH_ERRORS
}

PyMethodDef tracer_methods[] = {
    {"create_graph_by_tracing",
     as_method(create_graph_by_tracing),
     METH_VARARGS | METH_KEYWORDS,
     create_graph_doc},
    {"create_graph_by_tracing_with_dict",
     as_method(create_graph_by_tracing_with_dict),
     METH_VARARGS | METH_KEYWORDS,
     create_graph_with_dict_doc},
    {"get_tracing_state",
     get_tracing_state,
     METH_NOARGS,
     get_tracing_state_doc},
    {"set_tracing_state", set_tracing_state, METH_O, set_tracing_state_doc},
    {"get_value_trace", get_value_trace, METH_O, get_value_trace_doc},
    {"set_value_trace", set_value_trace, METH_VARARGS, set_value_trace_doc},
    {"source_range", source_range, METH_NOARGS, source_range_doc},
    {nullptr, nullptr, 0, nullptr}};

} // namespace

bool add_tracer_methods(PyObject* module) {
  HANDLE_TH_ERRORS
  tracer::initPythonTracerBindings(module);
  return true;
  END_HANDLE_TH_ERRORS_RET(false)
}

} // namespace torch_ext

namespace torch::jit::tracer {

/// Adds the functions of torch_ext.tracer. Not the type of the tracing state,
/// which torch has registered with pybind11, nor the callbacks that give torch's
/// own nodes their source: those belong to the process, and there is no reading
/// them so as to put them back.
void initPythonTracerBindings(PyObject* module) {
  torch_ext::check_status(
      PyModule_AddFunctions(module, torch_ext::tracer_methods));
}

} // namespace torch::jit::tracer
