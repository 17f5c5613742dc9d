#include <python/names.h>

namespace torch_ext {

Names names;

bool init_names() {
#define TORCH_EXT_INTERN(name)                              \
  if (names.name == nullptr) {                              \
    names.name = PyUnicode_InternFromString(#name);         \
    if (names.name == nullptr) {                            \
      return false;                                         \
    }                                                       \
  }
  TORCH_EXT_NAMES(TORCH_EXT_INTERN)
#undef TORCH_EXT_INTERN
  return true;
}

} // namespace torch_ext
