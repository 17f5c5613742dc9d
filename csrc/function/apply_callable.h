// The Python object that stands in the classmethod Function.apply.
#pragma once

#include <torch/csrc/python_headers.h>

namespace torch_ext {

/// Makes the callable, which calls apply() and passes for torch's own function
/// in all else (name, code, globals, signature: code that inspects finds what it
/// knows). A new reference, or null with an exception set.
PyObject* make_apply_callable();

/// What Python calls: apply() itself, for the function that makes a frame for
/// the call where somebody looks at frames; and the setting of that function.
PyObject* call(PyObject*, PyObject* const* args, Py_ssize_t count, PyObject* keywords);
PyObject* set_framed_apply(PyObject*, PyObject* arguments);

/// torch's own function inside the classmethod torch.autograd.Function.apply,
/// as of the import of torch_ext; and torch.autograd.Function. Borrowed,
/// immortal.
PyObject* torch_apply();
PyTypeObject* torch_function_class();

} // namespace torch_ext
