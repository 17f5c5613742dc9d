// SPDX-License-Identifier: BSD-3-Clause
#include <python/names.h>

#include <python/error.h>

namespace torch_ext {

Names names;

void init_names() {
#define TORCH_EXT_INTERN(name) \
  names.name.set(checked(PyUnicode_InternFromString(#name)));
  TORCH_EXT_NAMES(TORCH_EXT_INTERN)
#undef TORCH_EXT_INTERN
}

} // namespace torch_ext
