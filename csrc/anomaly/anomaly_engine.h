// Who makes the anomaly metadata of the graph's nodes.
#pragma once

namespace torch_ext {

/// Whether every node made from now on, torch's own included, gets metadata of
/// ours in anomaly mode. Returns what held before. Needs the GIL.
bool use_our_anomaly_metadata(bool ours);

} // namespace torch_ext
