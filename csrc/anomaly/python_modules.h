// SPDX-License-Identifier: BSD-3-Clause
// The modules of torch_ext that C++ calls.
#pragma once

namespace torch_ext {

/// record(metadata, node_name, exception, evidence), finish(exception, roots,
/// gradients), refuse_bad_roots(roots, gradients, infinite) and
/// refuse_bad_results(results, inputs, roots, gradients).
constexpr const char* kFailuresModule = "torch_ext.anomaly.failures";

} // namespace torch_ext
