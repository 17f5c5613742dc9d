// SPDX-License-Identifier: BSD-3-Clause
// A look at what operators and Functions return, as the graph gets it.
#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>
#include <c10/util/ArrayRef.h>
#include <torch/csrc/python_headers.h>

namespace torch_ext {

/// A call that autograd has recorded, just after it.
struct SeenCall {
  /// The operator's; null for a Function.
  const c10::FunctionSchema* schema;
  c10::ArrayRef<c10::IValue> arguments;
  c10::ArrayRef<c10::IValue> results;
};

/// What looks at calls. May throw: the call does then.
using LookAtCall = void (*)(const SeenCall&);

/// Lets `look` see all calls of operators and Functions, on this thread and on
/// each other one once a node is made there; null for nobody. While it looks,
/// what it calls itself isn't seen. Needs the GIL.
void set_look_at_calls(LookAtCall look);

/// Whether somebody looks at calls.
bool calls_are_seen();

/// Lets this thread's calls be seen, if somebody looks. What it is running just
/// now is looked at with the next call.
void see_calls_of_thread();

/// Shows a Function's call: what apply() got, without the class, and returned.
void see_call(PyObject* const* args, Py_ssize_t count, PyObject* result);

} // namespace torch_ext
