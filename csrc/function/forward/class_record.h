// SPDX-License-Identifier: BSD-3-Clause
// What apply() needs to know of a Function class.
#pragma once

#include <python/ref.h>

namespace torch_ext {

/// One Function class as it stands now.
struct ClassRecord {
  /// cls.forward.
  Ref forward;
  /// The type of ctx and grad_fn: see ctx_type_for().
  Ref ctx_type;
  /// Whether setup_context is overridden, so that forward takes no ctx.
  bool separate_setup = false;
  bool clear_saved_tensors_on_access = false;
  bool boxed_grads_call = false;
  /// Whether apply takes keyword arguments.
  bool takes_keywords = true;
  /// Whether the two flags are bools, as they have to be; see require_flags().
  bool has_flags = true;
};

/// Once, at import. Throws.
void init_class_records();

/// Reads `cls`. What was read before is used again while the class, its bases
/// and its metaclass are unchanged. Throws what the lookups raise, and what
/// ctx_type_for() does.
ClassRecord read_class(PyObject* cls);

/// Raises the error about the flags of a class whose record says that it lacks
/// them. Not read_class()'s to raise: torch looks at the flags late, when the
/// arguments are read and the node is made.
void require_flags(PyObject* cls);

/// For Python: (class, dict). Lets subclasses of the class, torch_ext.Function,
/// have what newer releases of torch have; their ctx gets what is in the dict.
PyObject* py_give_backports(PyObject* module, PyObject* arguments);

} // namespace torch_ext
