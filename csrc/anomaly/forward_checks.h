// SPDX-License-Identifier: BSD-3-Clause
// Checks that are made in forward, as each node is made.
#pragma once

#include <notes/seen_calls.h>

namespace torch_ext {

/// Looks at what a call returned, as checks() asks. Throws, with a report, if a
/// result that has a node is not finite.
void check_call(const SeenCall& call);

} // namespace torch_ext
