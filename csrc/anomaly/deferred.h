// SPDX-License-Identifier: BSD-3-Clause
// The check of gradients that doesn't wait for a GPU at each node.
#pragma once

#include <c10/core/SafePyObject.h>
#include <torch/csrc/autograd/function.h>

#include <memory>

namespace torch_ext {

class DeferredSession;

/// Around a backward: what its nodes give is noted, on whichever thread, if
/// checks() asks for that. Does nothing otherwise. Needs the GIL.
class DeferredCheck {
 public:
  DeferredCheck();
  ~DeferredCheck();
  DeferredCheck(const DeferredCheck&) = delete;
  DeferredCheck& operator=(const DeferredCheck&) = delete;

  /// Waits for the devices. Throws, with a report under way, if a node gave what
  /// is not finite: the first one that did.
  void look();

 private:
  std::shared_ptr<DeferredSession> session_;
  std::shared_ptr<c10::SafePyObject> before_;
};

/// Notes what a node gave, and what it had saved, in the backward that runs it.
void note_gradients(
    torch::autograd::Node& node,
    const torch::autograd::variable_list& outputs,
    const torch::autograd::variable_list& inputs);

/// take_late_evidence(): [(node, tuple of what it had saved)] of the nodes that
/// ran after the one that look() has named on this thread, and no longer.
PyObject* py_take_late_evidence(PyObject* module, PyObject* unused);

} // namespace torch_ext
