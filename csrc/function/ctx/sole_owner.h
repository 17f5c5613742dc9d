// SPDX-License-Identifier: BSD-3-Clause
// Whether a ctx alone owns all that holds its node.
//
// A tensor that a call returned holds the node, and so does each edge to it.
// Together these holders have one reference to the ctx, and the collector has
// to be shown whose it is. torch shows it if there is one holder, an output.
// Two outputs share the reference: neither can show it, since ctx is in use as
// long as either is. But if all holders belong to the ctx alone, as attributes
// of it say, then the reference is the ctx's own.
#pragma once

#include <compat.h>

namespace torch_ext {

/// Whether the one reference that the holders of the ctx's node have is owned
/// by the ctx itself, through what it alone owns, and is not shown by torch.
///
/// Invariant: the collector gets the same answer each time it looks at the same
/// garbage. Nobody can reach such a holder, and thereby change a count, without
/// the GIL. If anything else has a part in them, or the search would take long,
/// the answer is no: the ctx is then not collected.
bool owns_itself(PyObject* ctx);

/// Whether `visit` belongs to a search of owns_itself(). A ctx that it meets on
/// its way must not start another one.
bool is_search(visitproc visit);

} // namespace torch_ext
