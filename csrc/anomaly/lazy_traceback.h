// A Python stack that is taken as it is and becomes text when somebody reads it.
#pragma once

#include <python/ref.h>

namespace torch_ext {

/// Takes the stack of the current thread: a torch_ext._C.LazyTraceback, which
/// reads as the list of strings that traceback.format_stack() gives. It keeps
/// code objects alive and nothing else: no frames, locals, tensors, modules.
/// Throws what allocation raises.
Ref capture_traceback();

/// Makes the type ready. False with an exception set.
bool init_lazy_traceback();

extern PyTypeObject LazyTracebackType;

} // namespace torch_ext
