// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace standin {

/// Runs the CPU's kernel, on the current stream where shapes are known before.
void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack);

} // namespace standin
