// The node of a traced graph that calls Python.
#pragma once

#include <torch/csrc/jit/python/python_ir.h>

namespace torch_ext {

/// Makes a node in `graph`, which is to own it and has still to insert it, that
/// calls `callable`. `calling_convention` has a letter for each argument: 'd' for
/// a tensor, an input of the node; 'c' for any other, the next of `scalars`.
/// Needs the GIL.
torch::jit::Node* make_python_op(
    torch::jit::Graph& graph,
    THPObjectPtr callable,
    const std::string& calling_convention,
    pyobj_list scalars);

} // namespace torch_ext
