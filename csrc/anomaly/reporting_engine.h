// torch.autograd.Variable._execution_engine, with a report on what fails.
#pragma once

#include <torch/csrc/python_headers.h>

namespace torch_ext {

/// An engine like `engine` (torch's own) whose run_backward hands the exception
/// that it raises in anomaly mode to torch_ext._anomaly_report.finish, with the
/// roots. No Python frame is added. A new reference, or null with an exception
/// set.
PyObject* make_reporting_engine(PyObject* module, PyObject* engine);

/// The node that a backward from a tensor starts at, None where it starts at
/// none. Adds nothing to the graph and runs no code of a subclass or a mode. A new
/// reference, or null with an exception set.
PyObject* node_of_root(PyObject* module, PyObject* tensor);

} // namespace torch_ext
