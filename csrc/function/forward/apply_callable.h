// SPDX-License-Identifier: BSD-3-Clause
// The Python object that stands in a class as Function.apply.
#pragma once

#include <python/ref.h>

namespace torch_ext {

/// Makes what stands in a class as `apply`. It is of the kind that torch's own
/// is:
///
/// From torch 2.14 on, a classmethod of C.
///
/// Before, a classmethod of a Python function. Ours is a classmethod of an
/// object that stands for this function: it says that it is a function, is
/// equal to it, and has its attributes (name, code, globals, signature), so
/// that code which inspects it, torch.compile's for one, finds what it knows.
/// Setting an attribute sets it on that function. Calling it makes no Python
/// frame, which is most of what it saves. Some look at the frame of torch's
/// function, though, or at its call of C++: while they do, the call goes
/// through a Python function that has both (_frame.py).
///
/// Throws.
Ref make_apply();

/// set_framed_apply(function, get_callback): the Python function, and torch's
/// that tells whether torch.compile looks at the frames of this thread.
PyObject* py_set_framed_apply(PyObject* module, PyObject* arguments);

} // namespace torch_ext
