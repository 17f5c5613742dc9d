// SPDX-License-Identifier: BSD-3-Clause
// What Python's garbage collector knows, without letting anyone run meanwhile:
// among its objects are tuples that other threads are filling, which may not
// be held by anybody else as these go on.
#pragma once

#include <Python.h>

namespace torch_ext {

/// graph_objects(): the tensors and the nodes that the collector knows.
PyObject* py_graph_objects(PyObject* module, PyObject* none);

/// referrers_of(targets): what holds any of them, without unfinished tuples.
PyObject* py_referrers_of(PyObject* module, PyObject* targets);

} // namespace torch_ext
