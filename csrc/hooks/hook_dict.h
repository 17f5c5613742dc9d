// SPDX-License-Identifier: BSD-3-Clause
// What the four hook classes share. Each stands for a dict of Python hooks, in
// the order of registration, that Python adds to and removes from.
#pragma once

#include <python/ref.h>

#include <c10/core/SafePyObject.h>
#include <torch/csrc/autograd/function_hook.h>

#include <functional>

namespace torch_ext {

/// Calls each hook with `value`, and with `context` unless that is null.
/// `value` is a tensor, None for an undefined one, or a tuple of such. What a
/// hook returns takes its place and has to be like it, unless it is None.
/// Returns whether that happened. Throws what a hook raises. Needs the GIL.
bool call_hooks(PyObject* dict, Ref& value, PyObject* context = nullptr);

/// A tuple of tensors, with None for an undefined one, and back.
Ref wrap_tensors(const torch::autograd::variable_list& tensors);
torch::autograd::variable_list unwrap_tensors(PyObject* tuple);

/// Calls `add` with each hook, for compiled autograd.
void visit_hooks(
    PyObject* dict,
    const std::function<void(c10::SafePyObject&&)>& add);

/// Ends a hook object's ownership of `dict`. torch's headers declare the member
/// as a plain pointer; the thread may be any, and Python may be gone.
void release_dict(PyObject* dict) noexcept;

/// Calls `visit(hook)` for each of a node's `hooks` that is a PyHook, one of
/// the four classes, until that returns other than 0. Returns what it returned
/// last.
template <typename PyHook, typename Hooks, typename Visit>
int each_python_hook(const Hooks& hooks, Visit&& visit) {
  for (const auto& hook : hooks) {
    if (auto* python_hook = dynamic_cast<PyHook*>(hook.get())) {
      if (const int status = visit(*python_hook)) {
        return status;
      }
    }
  }
  return 0;
}

} // namespace torch_ext
