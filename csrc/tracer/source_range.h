// Where in the Python code a node of a traced graph comes from.
#pragma once

#include <torch/csrc/jit/frontend/source_range.h>

namespace torch_ext {

/// The Python stack at a call of apply(), innermost frame first: torch's own
/// apply, whose place ours takes, then the frames there are. So a graph shows
/// one place, whoever recorded the call. Needs the GIL. Throws.
torch::jit::SourceRange call_source_range();

} // namespace torch_ext
