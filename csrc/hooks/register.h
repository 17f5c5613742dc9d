// SPDX-License-Identifier: BSD-3-Clause
// Registering hooks on any tensor and any node. They share one dict, and so one
// order, with those that torch's own methods register.
#pragma once

#include <compat.h>
#include <python/ref.h>

namespace torch_ext {

/// The dict of the tensor's hooks, made and attached on first use. Throw what
/// torch's methods of the same purpose do.
Ref tensor_hooks(PyObject* tensor);
Ref post_accumulate_grad_hooks(PyObject* tensor);

/// Makes `hooks`, a dict, run on the gradient of `tensor`, an output of `node`.
void add_tensor_hooks(
    torch::autograd::Node& node,
    const at::Tensor& tensor,
    PyObject* hooks);

/// Register `hook` and return its handle. Throw.
Ref register_prehook(torch::autograd::Node& node, PyObject* hook);
Ref register_posthook(torch::autograd::Node& node, PyObject* hook);

/// The node behind any grad_fn: torch's, a stock Function's or ours. Throws
/// TypeError for another object, and RuntimeError if the node is gone.
compat::NodePtr node_of(PyObject* object);

/// The same for Python (hook_methods.cpp).
extern PyMethodDef hook_methods[];

} // namespace torch_ext
