// What Python's garbage collector sees of a state and the node that it owns.
#pragma once

#include <function/state.h>

namespace torch_ext {

/// tp_traverse and tp_clear of StateType.
int traverse_state(PyObject* object, visitproc visit, void* arg);
int clear_state(PyObject* object);

/// tp_finalize of StateType's subclasses, not StateType's own: dir(grad_fn)
/// would show it. The collector calls it before it clears anything.
void finalize_state(PyObject* object);

} // namespace torch_ext
