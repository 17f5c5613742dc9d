// SPDX-License-Identifier: BSD-3-Clause
// What a node has saved, read while other threads may free it.
#pragma once

#include <Python.h>

namespace torch_ext {

/// read_saved(node, name): ((data, unpack_hook), ...) of what torch calls
/// `name`, a node's attribute; None while a backward runs the node.
PyObject* py_read_saved(PyObject* module, PyObject* args);

} // namespace torch_ext
