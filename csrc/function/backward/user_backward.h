// The user's backward (or vjp), found without a Python call on the way.
#pragma once

#include <python/ref.h>

namespace torch_ext {

/// What grad_fn.apply(*gradients) would call with grad_fn and the gradients,
/// where that method and all it looks at are torch's own; null where they are
/// not, or where it would do more than pass the call on (box the gradients,
/// raise for a class with backward and vjp). Throws what the lookups raise.
Ref find_user_backward(PyObject* grad_fn);

/// Makes the function `apply` count as torch's own; null for none.
void set_backport_apply(PyObject* apply);

/// Once, at import: learns torch's own methods. False with an exception set.
bool init_user_backward();

} // namespace torch_ext
