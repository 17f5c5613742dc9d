// SPDX-License-Identifier: BSD-3-Clause
// The user's backward (or vjp), found without running torch's Python apply.
#pragma once

#include <python/ref.h>

namespace torch_ext {

/// What grad_fn.apply(*gradients) would call with (grad_fn, *gradients): the
/// user's backward or vjp. Throws what the lookups raise.
///
/// Null if somebody has replaced apply or what it looks at, and if apply would
/// do more than pass the call on: put the gradients into one list, or raise
/// because the class has both backward and vjp, or neither. apply has to be
/// called then.
Ref find_user_backward(PyObject* grad_fn);

/// Makes the function `apply` count as torch's own too; null for none.
void set_backport_apply(Ref apply);

} // namespace torch_ext
