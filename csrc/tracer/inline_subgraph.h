// SPDX-License-Identifier: BSD-3-Clause
// The nodes that a traced Function's forward recorded, kept for ONNX.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace torch_ext {

/// Whether torch.onnx wants them: GLOBALS.autograd_inlining, on by default.
/// torch also tests torch.onnx.is_in_onnx_export, but without calling it, and a
/// function is always true. So graphs have subgraphs outside an export as well.
bool autograd_inlining();

/// Copies the nodes after `giver`, which are those that forward recorded, into
/// a graph that becomes the attribute Subgraph of `node` and has the same
/// inputs. `giver` is `node`, or the node that unpacks its tuple. The graph's
/// outputs are those of `outputs` that the copied nodes make.
void append_subgraph(
    torch::jit::Node* node,
    torch::jit::Node* giver,
    const std::vector<torch::jit::Value*>& outputs);

} // namespace torch_ext
