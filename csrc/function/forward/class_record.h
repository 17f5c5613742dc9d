// What apply() needs to know of a Function class.
#pragma once

#include <python/ref.h>

namespace torch_ext {

/// One Function class as it stands now.
struct ClassRecord {
  /// cls.forward.
  Ref forward;
  /// The type of ctx and of grad_fn, which is cls._backward_cls: a subclass of
  /// StateType and of the class that torch made.
  Ref state_type;
  /// Whether setup_context is overridden, so that forward takes no ctx.
  bool separate_setup = false;
  bool clear_saved_tensors_on_access = false;
  bool boxed_grads_call = false;
  /// Whether apply takes keyword arguments.
  bool takes_keywords = true;
  /// Whether the two flags are what they have to be; see require_flags().
  bool has_flags = true;
};

/// Once, at import: learns torch's base classes. False with an exception set.
bool init_class_records();

/// Reads `cls`. What was read before is used again for as long as the class,
/// its bases and its metaclass are unchanged. Throws what the lookups raise, and
/// TypeError where its _backward_cls is none.
ClassRecord read_class(PyObject* cls);

/// Throws what is wrong with the flags of a class whose record has none: torch
/// looks at them last, when the arguments are read and the node is made.
void require_flags(PyObject* cls);

/// For Python: (class, dict). Subclasses of the class, torch_ext.Function, have
/// what newer releases of torch have; their ctx gets what is in the dict.
PyObject* give_backports(PyObject* module, PyObject* arguments);

/// The Function classes whose _backward_cls is now a subclass of StateType, as a
/// new list; null with an exception set.
PyObject* classes_with_state_type();

} // namespace torch_ext
