// SPDX-License-Identifier: BSD-3-Clause
// The class of ctx and grad_fn, made from the one that torch made.
#pragma once

#include <python/ref.h>

namespace torch_ext {

/// The type of ctx and grad_fn for `cls`: a subclass of CtxType and of
/// cls._backward_cls, the class that torch made for `cls`. Made on first use;
/// cls._backward_cls, which stays as it is, keeps it alive. `additions`, a dict
/// or null, is what ctx has beyond torch's.
///
/// Throws what the lookup raises, and TypeError if _backward_cls is no class
/// that a grad_fn can be made of.
Ref ctx_type_for(PyTypeObject* cls, PyObject* additions);

/// Once, at import. Throws.
void init_backward_cls();

} // namespace torch_ext
