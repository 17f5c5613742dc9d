// SPDX-License-Identifier: BSD-3-Clause
// The Python type of ctx.
#pragma once

#include <python/ref.h>

namespace torch_ext {

/// torch_ext._C.Ctx. Instances are always of a subclass, one for each Function.
extern PyTypeObject CtxType;

inline bool is_ctx_type(PyTypeObject* type) {
  return PyType_IsSubtype(type, &CtxType) != 0;
}

/// The class from which make_ctx_type() made `type`; `type` itself if it did
/// not.
PyTypeObject* made_from(PyTypeObject* type);

/// Makes a subclass of `backward_cls`, the class that torch made for a
/// Function, and of CtxType, with the same name. In its MRO CtxType comes just
/// before torch._C._FunctionBase: what Python classes override there, they
/// override in ours. `additions`, a dict or null, is what it has beyond
/// torch's. Throws.
Ref make_ctx_type(PyTypeObject* backward_cls, PyObject* additions);

/// Once, at import: makes CtxType ready. Throws.
void init_ctx_types();

// The tables of CtxType (attributes.cpp and methods.cpp).
extern PyGetSetDef ctx_attributes[];
extern PyMethodDef ctx_methods[];

} // namespace torch_ext
