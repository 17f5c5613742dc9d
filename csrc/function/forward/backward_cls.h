// SPDX-License-Identifier: BSD-3-Clause
// cls._backward_cls: torch_ext's class in the place of torch's.
#pragma once

#include <python/ref.h>

namespace torch_ext {

/// The type of ctx and grad_fn for `cls`: a subclass of CtxType and of the
/// class that torch made for `cls`, made on first use. `additions`, a dict or
/// null, is what ctx has beyond torch's.
///
/// It replaces torch's class as cls._backward_cls, so that type(grad_fn) is
/// cls._backward_cls as on stock torch; and so cls keeps it alive, and the
/// garbage collector sees the cycle. If a metaclass or a descriptor computes
/// cls._backward_cls there is nothing to replace: type(grad_fn) is then a
/// subclass of what was computed, which keeps it alive.
///
/// Throws what the lookup raises, and TypeError if _backward_cls is no class
/// that a grad_fn can be made of.
Ref ctx_type_for(PyTypeObject* cls, PyObject* additions);

/// A list of the Function classes whose _backward_cls was replaced. Throws.
Ref classes_with_ctx_type();

/// Once, at import. Throws.
void init_backward_cls();

} // namespace torch_ext
