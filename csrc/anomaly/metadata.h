// SPDX-License-Identifier: BSD-3-Clause
// What a node remembers in anomaly mode. The class is torch's
// PyAnomalyMetadata, whose members metadata.cpp defines.
#pragma once

namespace torch_ext {

/// Once, at import. Throws.
void init_anomaly_metadata();

} // namespace torch_ext
