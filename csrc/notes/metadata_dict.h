// SPDX-License-Identifier: BSD-3-Clause
// The dict that Python sees as node.metadata, with the stack on which the node
// was made.
//
// Making such a dict with its traceback, and dropping both, takes longer than
// looking at the stack. So those that nobody has touched are used again.
#pragma once

#include <notes/lazy_traceback.h>
#include <python/ref.h>

namespace torch_ext {

/// A node's dict, and the traceback in it if that is ours. A pair of owned
/// references that may be moved about without the GIL.
struct MetadataDict {
  PyObject* dict = nullptr;
  LazyTraceback* traceback = nullptr;
};

/// One with this thread's stack. Needs the GIL. Throws if there is no memory.
MetadataDict make_dict_with_stack();

/// Puts this thread's stack into a dict; returns it, null if it is not ours.
/// Needs the GIL. Throws.
Ref put_stack(PyObject* dict);

/// Takes the references over. May be called on any thread, with or without the
/// GIL, and after Python's end.
void give_back(MetadataDict metadata) noexcept;

/// Once, at import. Throws.
void init_metadata_dict();

} // namespace torch_ext
