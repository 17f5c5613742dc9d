// Registering hooks on any tensor and any node, so that they share dict and
// order with those that torch's own methods register.
#pragma once

#include <compat.h>
#include <python/ref.h>

namespace torch_ext {

/// The dict of the tensor's hooks, made and attached on first use: a new
/// reference. Throws where torch's method of the same purpose does.
PyObject* tensor_hooks(PyObject* tensor);
PyObject* post_accumulate_grad_hooks(PyObject* tensor);

/// Has `hooks` run on the gradient of `tensor`, an output of `node`.
void add_tensor_hooks(
    torch::autograd::Node& node,
    const at::Tensor& tensor,
    PyObject* hooks);

/// Registers `hook` and returns its handle: a new reference, or null with an
/// exception set.
PyObject* register_prehook(torch::autograd::Node& node, PyObject* hook);
PyObject* register_posthook(torch::autograd::Node& node, PyObject* hook);

/// The node behind a grad_fn, torch's, stock Functions' or ours. Throws
/// TypeError for any other object, RuntimeError where the node is gone.
compat::NodePtr node_of(PyObject* object);

/// The same for Python (hook_methods.cpp).
extern PyMethodDef hook_methods[];

} // namespace torch_ext
