// What a traced Function's forward did, kept for ONNX.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace torch_ext {

/// Whether torch.onnx wants it: GLOBALS.autograd_inlining, on by default.
/// torch asks torch.onnx.is_in_onnx_export too, but not by calling it, and a
/// function is true: so graphs have subgraphs outside an export as well.
bool autograd_inlining();

/// Copies the nodes after `giver`, which forward recorded, into a graph that
/// becomes the attribute Subgraph of `node`, with inputs like the node's.
/// `giver` is `node`, or the node that unpacks its tuple. Those of `outputs`
/// that the nodes give become the graph's outputs.
void append_subgraph(
    torch::jit::Node* node,
    torch::jit::Node* giver,
    const std::vector<torch::jit::Value*>& outputs);

} // namespace torch_ext
