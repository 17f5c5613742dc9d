// SPDX-License-Identifier: BSD-3-Clause
// What Python's garbage collector sees of a ctx and the node that it owns.
//
// A cycle can go through a saved tensor: the ctx owns the node, the node saves
// an output, and the output's grad_fn is the ctx. Only C++ holds the saved
// tensor, and torch ends the process if the collector clears such a tensor. So
// it is done in three steps, in the collector's own order:
//   1. traverse_ctx() shows the saved tensors that nothing else keeps alive;
//   2. finalize_ctx() moves these from the saved variables to SavedAside::lent,
//      as Python objects, so that C++ no longer holds them;
//   3. clear_ctx() drops what is lent.
// If a finaliser brings the object back to life between 2 and 3, the next use
// of the saved variables puts the tensors back (Ctx::saved_variables()).
//
// What the hooks of a saved variable own is Python's, and shown at any time.
// sole_owner.h is about outputs that are kept on ctx.
#pragma once

#include <python/ref.h>

namespace torch_ext {

/// tp_traverse and tp_clear of CtxType. They neither throw nor run Python code
/// before they have taken the object apart.
int traverse_ctx(PyObject* object, visitproc visit, void* arg);
int clear_ctx(PyObject* object);

/// Once, at import: asks Python to tell of collections, by gc.callbacks.
void init_collections();

/// tp_finalize of CtxType's subclasses. CtxType itself has none: dir(grad_fn)
/// would show it.
void finalize_ctx(PyObject* object);

} // namespace torch_ext
