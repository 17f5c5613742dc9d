// SPDX-License-Identifier: BSD-3-Clause
// The look at every operator that runs while nodes are noting: which tensors it
// changes, and which values leave the graph in it.
#pragma once

#include <torch/csrc/python_headers.h>

namespace torch_ext {

/// Begins to look, until anomaly mode is seen to be off. Does nothing if it has
/// begun, or if only the notes of nodes are wanted.
void observe_operators();

/// note_only(on): whether nodes note and nothing else is done: no operator is
/// looked at, and a failing backward prints nothing. Returns what held before.
PyObject* py_note_only(PyObject* module, PyObject* on);

/// Whether that holds.
bool notes_only();

/// observe_operators(): as above. For Python.
PyObject* py_observe_operators(PyObject* module, PyObject* unused);

} // namespace torch_ext
