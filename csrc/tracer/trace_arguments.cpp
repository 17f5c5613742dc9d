// SPDX-License-Identifier: BSD-3-Clause
#include <tracer/trace_arguments.h>

#include <compat.h>
#include <python/error.h>
#include <python/tensor.h>
#include <tracer/infer.h>

#include <torch/csrc/jit/python/module_python.h>

namespace torch_ext {

namespace {

const char* type_name(PyObject* object) {
  return Py_TYPE(object)->tp_name;
}

} // namespace

TraceArguments::TraceArguments(
    bool by_name,
    PyObject* arguments,
    PyObject* keywords)
    : function_name(
          by_name ? "create_graph_by_tracing_with_dict"
                  : "create_graph_by_tracing") {
  const auto parse =
      [&](const char* format, const char** names, auto*... first) {
        if (!PyArg_ParseTupleAndKeywords(
                arguments,
                keywords,
                format,
                const_cast<char**>(names),
                &func,
                first...,
                &inputs,
                &var_name_lookup_fn,
                &strict,
                &force_outplace,
                &self,
                &argument_names)) {
          throw_python_error();
        }
      };
  // The names without inputs_dict begin at the second one.
  const char* names[] = {
      "func",
      by_name ? "inputs_dict" : "func",
      "inputs",
      "var_name_lookup_fn",
      "strict",
      "force_outplace",
      "self",
      "argument_names",
      nullptr};
  if (by_name) {
    parse("OO|OOppOO:create_graph_by_tracing_with_dict", names, &inputs_dict);
  } else {
    parse("OO|OppOO:create_graph_by_tracing", names + 1);
  }
}

py::function TraceArguments::callable(const char* name, PyObject* object)
    const {
  if (PyCallable_Check(object) == 0) {
    raise(
        PyExc_TypeError,
        "%s: %s must be callable, got %s.",
        function_name,
        name,
        type_name(object));
  }
  return py::reinterpret_borrow<py::function>(object);
}

py::tuple TraceArguments::sequence(
    const char* name,
    const char* of,
    PyObject* object) const {
  if (PySequence_Check(object) == 0 || PyUnicode_Check(object) ||
      PyBytes_Check(object) || PyDict_Check(object) ||
      has_tensor_type(object)) {
    raise(
        PyExc_TypeError,
        "%s: %s must be a sequence of %s, got %s.",
        function_name,
        name,
        of,
        type_name(object));
  }
  return py::reinterpret_steal<py::tuple>(
      checked(PySequence_Tuple(object)).release());
}

py::function TraceArguments::traced() const {
  return callable("func", func);
}

py::dict TraceArguments::named_inputs() const {
  if (!PyDict_Check(inputs_dict)) {
    raise(
        PyExc_TypeError,
        "%s: inputs_dict must be a dict, got %s.",
        function_name,
        type_name(inputs_dict));
  }
  auto dict = py::reinterpret_borrow<py::dict>(inputs_dict);
  compat::CriticalSection of_dict(inputs_dict);
  for (const auto& item : dict) {
    if (!PyUnicode_Check(item.first.ptr())) {
      raise(
          PyExc_TypeError,
          "%s: inputs_dict must have names as its keys, got %R.",
          function_name,
          item.first.ptr());
    }
  }
  return dict;
}

torch::jit::Stack TraceArguments::stack() const {
  torch::jit::Stack stack;
  if (inputs != nullptr) {
    for (const py::handle input : sequence("inputs", "values", inputs)) {
      stack.push_back(inferred_value(input));
    }
  }
  return stack;
}

py::function TraceArguments::variable_name() const {
  return var_name_lookup_fn == Py_None
      ? py::cpp_function([](const py::object&) { return ""; })
      : callable("var_name_lookup_fn", var_name_lookup_fn);
}

torch::jit::Module* TraceArguments::module() const {
  if (self == Py_None) {
    return nullptr;
  }
  const py::handle object(self);
  if (torch::jit::as_module(object)) {
    return object.attr("_c").cast<torch::jit::Module*>();
  }
  if (!py::isinstance<torch::jit::Module>(object)) {
    raise(
        PyExc_TypeError,
        "%s: self must be a script module, got %s.",
        function_name,
        type_name(self));
  }
  return object.cast<torch::jit::Module*>();
}

std::vector<std::string> TraceArguments::names() const {
  std::vector<std::string> names;
  if (argument_names == nullptr) {
    return names;
  }
  for (const py::handle name :
       sequence("argument_names", "str", argument_names)) {
    if (!PyUnicode_Check(name.ptr())) {
      raise(
          PyExc_TypeError,
          "%s: argument_names must be a sequence of str, got %s in it.",
          function_name,
          type_name(name.ptr()));
    }
    names.push_back(name.cast<std::string>());
  }
  return names;
}

} // namespace torch_ext
