// SPDX-License-Identifier: BSD-3-Clause
// The backwards that were called while nodes were noting: where, and what each
// of them freed.
#pragma once

#include <compat.h>

#include <cstdint>
#include <vector>

namespace torch_ext {

/// How many have begun in this process.
std::uint32_t backwards_begun();

/// Notes a backward that is about to begin, in anomaly mode: where it is called,
/// and on each node that it will free that it does.
///
/// `targets` are the nodes that it stops at; if there are none, it goes on to
/// the leaves.
void note_backward(
    const std::vector<compat::NodePtr>& roots,
    const std::vector<compat::NodePtr>& targets,
    bool keeps_graph);

/// The same for the arguments by position of torch's run_backward(): roots,
/// gradients, keep_graph, create_graph, inputs.
void note_backward(PyObject* const* args, Py_ssize_t count);

/// Forgets all calls, and no number. Needs the GIL.
void forget_backward_calls();

/// backwards(): how many have begun.
PyObject* py_backwards(PyObject* module, PyObject* unused);

/// backward_call(number): the stack of the call, as a LazyTraceback; None if it
/// is not known any more.
PyObject* py_backward_call(PyObject* module, PyObject* number);

} // namespace torch_ext
