// SPDX-License-Identifier: BSD-3-Clause
// The operators by which the engine looks for NaN in a gradient, run quickly.
//
// It calls isnan(gradient)._is_any_true().item(), each through the dispatcher
// and an iterator over tensors of any kind. On a thread that observes operators
// the first two go by kernels of ours: what they return is the same.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

#include <optional>
#include <string>

namespace torch_ext {

/// What observes an operator in any other case.
using Observe = void(
    const c10::OperatorHandle& op,
    c10::DispatchKeySet keys,
    torch::jit::Stack* stack);

/// A kernel for the operator with this name, to be registered for `key`; none if
/// it is not one of them. Call it for all operators before any of these runs.
std::optional<c10::KernelFunction> nan_check_kernel(
    const c10::OperatorHandle& op,
    c10::DispatchKey key,
    Observe* otherwise);

} // namespace torch_ext
