// SPDX-License-Identifier: BSD-3-Clause
// Leaves that a call takes from the edge of the graph into its middle.
#pragma once

#include <compat.h>
#include <function/forward/inputs.h>
#include <function/forward/marks.h>

#include <vector>

namespace torch_ext {

/// Watches the inputs marked dirty while torch makes them outputs.
///
/// torch moves a changed input behind the new node, and empties the node that
/// used to accumulate its gradient. It refuses to if the input is a leaf that
/// requires grad, but forward, or its caller, may have detached the leaf first.
/// A backward that then reaches the emptied node ends the process on stock
/// torch. Here it raises an error.
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
