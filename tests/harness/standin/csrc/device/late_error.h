// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <functional>

namespace standin {

/// Runs a stream's work, unless work has failed before. What it throws becomes
/// the late error of the process, which stays: as on a GPU, nothing runs after.
void run_unless_failed(const std::function<void()>& work) noexcept;

/// Throws the late error, if there is one.
void check_late_error();

} // namespace standin
