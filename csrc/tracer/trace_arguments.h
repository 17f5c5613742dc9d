// The arguments of tracing by hand, as Python gives them.
#pragma once

#include <python/ref.h>

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/utils/pybind.h>

namespace torch_ext {

/// What both ways of tracing take; borrowed from the caller but for the tuples.
struct TraceArguments {
  const char* function_name; // for error messages
  PyObject* func = nullptr;
  PyObject* inputs_dict = nullptr; // only where the inputs come by name
  PyObject* inputs = nullptr;
  PyObject* var_name_lookup_fn = Py_None;
  int strict = 1;
  int force_outplace = 0;
  PyObject* self = Py_None;
  PyObject* argument_names = nullptr;

  /// Throw TypeError, which names the function and the argument, where one is
  /// of the wrong type.
  py::function traced() const;
  py::dict named_inputs() const;
  torch::jit::Stack stack() const;
  py::function variable_name() const;
  /// The module behind a ScriptModule, which `self` keeps alive; null without.
  torch::jit::Module* module() const;
  std::vector<std::string> names() const;

 private:
  py::function callable(const char* name, PyObject* object) const;
  py::tuple sequence(const char* name, const char* of, PyObject* object) const;
};

} // namespace torch_ext
