// SPDX-License-Identifier: BSD-3-Clause
// Checksums of what nodes have saved: whether its values changed though no
// operator was seen to change them.
#pragma once

#include <compat.h>

#include <memory>

namespace torch::autograd {
struct FunctionPreHook;
}

namespace torch_ext {

/// Remembers the sums of what a node that was just made has saved. Tensors that
/// a hook unpacks, and such as have no memory of their own, are left out.
void remember_saved(const compat::NodePtr& node);

/// A hook that throws if what `node` has saved is not what was remembered. The
/// node must outlive it.
std::unique_ptr<torch::autograd::FunctionPreHook> make_saved_check(
    torch::autograd::Node& node);

/// changed_saved(node): (tensor, its number among those saved, how many were
/// saved) of the first that has changed; None if none has.
PyObject* py_changed_saved(PyObject* module, PyObject* node);

} // namespace torch_ext
