// SPDX-License-Identifier: BSD-3-Clause
// The arguments of tracing by hand, as Python gives them.
#pragma once

#include <python/ref.h>

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/utils/pybind.h>

#include <string>
#include <vector>

namespace torch_ext {

/// What both functions that trace take, borrowed from the caller.
struct TraceArguments {
  /// Reads the arguments of create_graph_by_tracing, or of
  /// create_graph_by_tracing_with_dict if `by_name`. Throws TypeError.
  TraceArguments(bool by_name, PyObject* arguments, PyObject* keywords);

  const char* function_name; // for error messages
  PyObject* func = nullptr;
  PyObject* inputs_dict = nullptr; // only if the inputs come by name
  PyObject* inputs = nullptr;
  PyObject* var_name_lookup_fn = Py_None;
  int strict = 1;
  int force_outplace = 0;
  PyObject* self = Py_None;
  PyObject* argument_names = nullptr;

  /// Throw TypeError, which names the function and the argument, if that is of
  /// the wrong type.
  py::function traced() const;
  py::dict named_inputs() const;
  torch::jit::Stack stack() const;
  py::function variable_name() const;
  /// The module behind `self`, a ScriptModule, which keeps it alive; null for
  /// None.
  torch::jit::Module* module() const;
  std::vector<std::string> names() const;

 private:
  py::function callable(const char* name, PyObject* object) const;
  py::tuple sequence(const char* name, const char* of, PyObject* object) const;
};

} // namespace torch_ext
