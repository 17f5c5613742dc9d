// SPDX-License-Identifier: BSD-3-Clause
// The node of a traced graph that calls Python.
#pragma once

#include <torch/csrc/jit/python/python_ir.h>

namespace torch_ext {

/// Makes a node that calls `callable`. `graph` owns it and has yet to insert
/// it. `calling_convention` has a letter for each argument: 'd' for a tensor,
/// which is an input of the node, and 'c' for the next of `scalars`. Needs the
/// GIL.
torch::jit::Node* make_python_op(
    torch::jit::Graph& graph,
    THPObjectPtr callable,
    const std::string& calling_convention,
    pyobj_list scalars);

} // namespace torch_ext
