// SPDX-License-Identifier: BSD-3-Clause
// The attribute names that are looked up on every call, interned once.
#pragma once

#include <python/immortal.h>

namespace torch_ext {

#define TORCH_EXT_NAMES(X)         \
  X(apply)                         \
  X(apply_boxed)                   \
  X(apply_jvp)                     \
  X(backward)                      \
  X(boxed_grads_call)              \
  X(clear_saved_tensors_on_access) \
  X(forward)                       \
  X(generation)                    \
  X(is_traceable)                  \
  X(name)                          \
  X(opaque_objects)                \
  X(proxy_call_backward)           \
  X(setup_context)                 \
  X(unwrap_if_dead)                \
  X(view_as)                       \
  X(vjp)                           \
  X(_aot_id)                       \
  X(_backward_cls)                 \
  X(_compiled_autograd_key)        \
  X(_forward_cls)                  \
  X(_get_user_fn)                  \
  X(_input_grad_buffers)           \
  X(_torch_ext_ctx_type)           \
  X(__class__)                     \
  X(__code__)                      \
  X(__module__)                    \
  X(__orig_bases__)                \
  X(__qualname__)                  \
  X(__signature__)                 \
  X(__wrapped__)

/// Interned strings, there from init_names() on.
struct Names {
#define TORCH_EXT_DECLARE(name) Immortal name;
  TORCH_EXT_NAMES(TORCH_EXT_DECLARE)
#undef TORCH_EXT_DECLARE
};

extern Names names;

/// Once, at import: interns them. Throws if there is no memory.
void init_names();

} // namespace torch_ext
