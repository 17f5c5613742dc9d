// SPDX-License-Identifier: BSD-3-Clause
// The state in which forward runs.
#pragma once

#include <c10/core/AutogradState.h>

namespace torch_ext {

/// No grad mode and no forward-mode AD on this thread while it lives:
/// AutoGradMode and AutoFwGradMode with one look at the thread's state.
class NoGrad {
 public:
  NoGrad()
      : state_(c10::AutogradState::get_tls_state()),
        grad_(state_.get_grad_mode()),
        tangents_(state_.get_fw_grad_mode()) {
    set(false, false);
  }
  ~NoGrad() {
    set(grad_, tangents_);
  }
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  void set(bool grad, bool tangents) {
    state_.set_grad_mode(grad);
    state_.set_fw_grad_mode(tangents);
  }

  c10::AutogradState& state_; // the thread's own, which lives as long as it
  bool grad_;
  bool tangents_;
};

} // namespace torch_ext
