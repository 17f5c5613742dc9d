// SPDX-License-Identifier: BSD-3-Clause
// Where values leave the graph: an operator is given a tensor that requires
// grad, and what it returns doesn't. What is computed from such values is
// followed on the thread that computes it, by the memory that it is in.
#pragma once

#include <ATen/core/ivalue.h>
#include <c10/util/SmallVector.h>
#include <compat.h>

#include <cstdint>
#include <string>
#include <vector>

namespace torch_ext {

/// A leaf, by its counter of versions: a weak reference to a sparse tensor, or
/// to one that wraps another, would keep its memory.
using Leaf = c10::VariableVersion;

/// What an operator was given, as far as it may matter once it has run. Keeps
/// no tensor alive.
struct Given {
  bool requires_grad = false;
  /// Numbers of cuts that its other tensors come from.
  c10::SmallVector<std::uint32_t, 4> cuts;
  /// The nodes and leaves that it was given.
  std::vector<compat::NodePtr> nodes;
  std::vector<Leaf> leaves;
};

/// Looks at an operator's arguments.
Given look_at(c10::ArrayRef<const c10::IValue> arguments);

/// Follows what was given to the operator into what it has returned.
void follow(
    Given& given,
    c10::ArrayRef<const c10::IValue> results,
    const std::string& name);

/// Forgets all cuts. Needs the GIL.
void forget_cuts();

/// cuts_of(object): numbers of the cuts that a tensor comes from, or that some
/// of what a node was made from comes from: a tuple.
PyObject* py_cuts_of(PyObject* module, PyObject* object);

/// cut(number): (operator, reason, stack, whether all leaves behind it are
/// known); None if it is forgotten.
PyObject* py_cut(PyObject* module, PyObject* number);

/// recent_cuts(number): numbers of the cuts since so many backwards had begun.
PyObject* py_recent_cuts(PyObject* module, PyObject* number);

/// cuts_from(tensor): numbers of the cuts that a leaf's values went through,
/// as far as they are remembered.
PyObject* py_cuts_from(PyObject* module, PyObject* leaf);

} // namespace torch_ext
