// SPDX-License-Identifier: BSD-3-Clause
// torch.autograd.Variable._execution_engine, with a report on failures.
#pragma once

#include <torch/csrc/python_headers.h>

namespace torch_ext {

/// make_reporting_engine(engine): an engine like `engine`, which is torch's
/// own. If its run_backward raises in anomaly mode, it hands the exception and
/// the roots to torch_ext.anomaly.failures.finish(). It adds no Python frame.
PyObject* py_make_reporting_engine(PyObject* module, PyObject* engine);

/// node_of_root(tensor): the node that a backward from the tensor starts at;
/// None if there is none. Adds nothing to the graph and runs no code of a
/// subclass or a mode.
PyObject* py_node_of_root(PyObject* module, PyObject* tensor);

} // namespace torch_ext
