// SPDX-License-Identifier: BSD-3-Clause
// The look at operators that run while nodes are noting: which tensors they
// change, and which values leave the graph in them.
#pragma once

#include <torch/csrc/python_headers.h>

namespace torch_ext {

/// Looks, from now on and on this thread, at the operators that change a tensor
/// or may cut the graph, until one of them sees that anomaly mode is off. Warns
/// and returns false if that can't be done. Throws nothing.
bool observe_operators();

/// The same unless only notes are wanted, or torch.compile was used: it would
/// compile anew, since its guards look at what is observed. Throws nothing.
void observe_operators_on_this_thread();

/// Whether this thread does.
bool observes_operators();

/// observes_operators(): the same. For Python.
PyObject* py_observes_operators(PyObject* module, PyObject* unused);

/// Whether only notes are wanted: threads don't look at operators of themselves,
/// and a failing backward prints nothing.
bool notes_only();

/// note_only(on): decides it. Returns what held before.
PyObject* py_note_only(PyObject* module, PyObject* on);

/// observe_operators(on): as above, or no longer. Returns what held before.
PyObject* py_observe_operators(PyObject* module, PyObject* on);

/// follow_operators(on): looks at all operators on this thread for as long as
/// one more, or one less, wants it: at where values go that have left the graph.
PyObject* py_follow_operators(PyObject* module, PyObject* on);

} // namespace torch_ext
