// SPDX-License-Identifier: BSD-3-Clause
// What accelerate() puts into one class as `apply`.
#pragma once

#include <python/ref.h>

namespace torch_ext {

/// apply_for(cls): a descriptor of the same kind and behaviour as `apply`, the
/// one that stands in torch_ext.Function, and with it as __func__.
///
/// It differs when it is pickled. cloudpickle and dill send a class by value,
/// and with it what stands in its dict. This sends "the apply that cls has
/// where you are": ours in a process in which cls is accelerated; else that of
/// torch.autograd.Function, stock or installed.
PyObject* py_apply_for(PyObject* module, PyObject* cls);

/// Once, at import, after `apply` was made. Throws.
void init_accelerated_apply(PyObject* apply);

} // namespace torch_ext
