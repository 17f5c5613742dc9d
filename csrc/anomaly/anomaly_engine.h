// SPDX-License-Identifier: BSD-3-Clause
// Who makes the anomaly metadata of the graph's nodes.
#pragma once

namespace torch_ext {

/// Decides whether every node that is made from now on, torch's own included,
/// gets our metadata in anomaly mode. Returns what held before. Needs the GIL.
bool use_our_anomaly_metadata(bool ours);

} // namespace torch_ext
