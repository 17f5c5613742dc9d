// Leaves that a call takes from the edge of the graph into its middle.
#pragma once

#include <compat.h>
#include <function/inputs.h>
#include <function/marks.h>

namespace torch_ext {

/// Watches the inputs marked dirty while torch makes them outputs.
///
/// torch moves a changed input behind the new node, and takes it out of the node
/// that accumulates its gradient. It refuses to where that is in use, for leaves
/// that require grad; but forward may have detached the leaf, or its user before.
/// A backward that comes to the emptied node ends the process on stock torch.
/// Here it raises an error.
class MovedLeaves {
 public:
  MovedLeaves(const Inputs& inputs, const Marked& dirty);
  ~MovedLeaves();
  MovedLeaves(const MovedLeaves&) = delete;
  MovedLeaves& operator=(const MovedLeaves&) = delete;

 private:
  std::vector<compat::NodePtr> accumulators_;
};

} // namespace torch_ext
