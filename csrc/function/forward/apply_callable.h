// The Python object that stands in a class as Function.apply.
#pragma once

#include <torch/csrc/python_headers.h>

namespace torch_ext {

/// Makes what calls apply(), of the kind that torch's own is. From torch 2.14 on
/// that is a classmethod of C. Before, it is a classmethod of a function, for
/// which ours passes in all else (name, code, globals, signature: code that
/// inspects finds what it knows). A new reference, or null with an exception set.
PyObject* make_apply();

/// What Python calls: apply() itself, for the function that makes a frame for
/// the call where somebody looks at frames; and the setting of that function.
PyObject* call(PyObject*, PyObject* const* args, Py_ssize_t count, PyObject* keywords);
PyObject* set_framed_apply(PyObject*, PyObject* arguments);

/// What in torch's own torch.autograd.Function.apply takes the class as its first
/// argument, as of the import of torch_ext; and torch.autograd.Function.
/// Borrowed, immortal.
PyObject* torch_apply();
PyTypeObject* torch_function_class();

} // namespace torch_ext
