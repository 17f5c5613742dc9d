// What the four hook classes share. Each stands for a dict of Python hooks, in
// the order of registration, that Python adds to and removes from.
#pragma once

#include <python/ref.h>

#include <c10/core/SafePyObject.h>
#include <torch/csrc/autograd/function_hook.h>

#include <functional>

namespace torch_ext {

/// Calls each hook with `value`, and with `context` where that is not null.
/// What a hook returns takes the place of `value`, unless it is None or `value`
/// itself, and has to be like it. `value` is a tensor, None for an undefined
/// one, or a tuple of such. Returns whether it was replaced. Needs the GIL.
bool call_hooks(PyObject* dict, Ref& value, PyObject* context = nullptr);

/// A tuple of tensors, None where one is undefined, and back.
Ref wrap_tensors(const torch::autograd::variable_list& tensors);
torch::autograd::variable_list unwrap_tensors(PyObject* tuple);

/// Shows each hook to compiled autograd, by way of `add`.
void visit_hooks(
    PyObject* dict,
    const std::function<void(c10::SafePyObject&&)>& add);

/// Drops the reference that a hook object had. The thread may be any, and
/// Python may be gone: then its objects are left where they are.
void release_dict(PyObject* dict) noexcept;

} // namespace torch_ext
