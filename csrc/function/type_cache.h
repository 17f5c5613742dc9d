// SPDX-License-Identifier: BSD-3-Clause
// What was found out about classes, to be used again while they are unchanged.
#pragma once

#include <compat.h>
#include <python/error.h>
#include <python/names.h>
#include <python/ref.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <utility>

namespace torch_ext {

/// How often Python has started over with its version tags, as far as anybody
/// asked.
inline unsigned int tag_generation() {
  static unsigned int generation = 0;
  if (compat::version_tags_restarted()) {
    ++generation;
  }
  return generation;
}

/// The tags that say whether a class, its bases and its metaclass are what they
/// were.
struct ClassVersion {
  unsigned int of_class = 0;
  unsigned int of_metaclass = 0;

  static ClassVersion of(const PyTypeObject* cls) {
    return {compat::type_version(cls), compat::type_version(Py_TYPE(cls))};
  }
  /// The same, after both have got a tag if they can have one: a lookup gives
  /// it to them.
  static ClassVersion give(PyTypeObject* cls) {
    compat::type_lookup(cls, names.forward);
    compat::type_lookup(Py_TYPE(cls), names.forward);
    return of(cls);
  }
  bool is_valid() const {
    return of_class != 0 && of_metaclass != 0;
  }
  bool operator==(const ClassVersion&) const = default;
};

/// Answers by class.
///
/// Invariant: while the version tag of a class is the one in its line, and that
/// of its metaclass too, neither they nor a base of them has been changed. So
/// each attribute has the value that it had, and references in an answer may be
/// borrowed from what the class or a base keeps. On free-threaded Python
/// another thread may change the class at any time: what is borrowed there may
/// only be compared with what has been looked up anew, and counts if is_current
/// says so afterwards.
///
/// Each class has one line where it can stand, by its address, and takes the
/// place of the class that is there: so classes made by the thousand, as
/// functorch does, cost no memory. A line of a class that is gone is harmless,
/// since no other type gets its version tag. Guarded by the GIL; where there is
/// none each thread has a cache of its own, so that nobody waits for anybody.
template <typename Answer>
class TypeCache {
 public:
  /// The cache of this thread, or of all if the GIL guards it.
  static TypeCache& here() {
    if constexpr (compat::kFreeThreaded) {
      static thread_local TypeCache cache;
      return cache;
    } else {
      static TypeCache cache;
      return cache;
    }
  }

  /// The answer for `cls`; null if there is none. Valid until Python code runs.
  const Answer* find(const PyTypeObject* cls) {
    if (const unsigned int now = tag_generation(); now != generation_) {
      generation_ = now;
      lines_.fill(Line());
    }
    return is_current(cls) ? &line_of(cls).answer : nullptr;
  }

  /// Whether what stands for `cls` holds (still).
  bool is_current(const PyTypeObject* cls) {
    const Line& line = line_of(cls);
    return line.cls == cls && line.version.is_valid() &&
        line.version == ClassVersion::of(cls);
  }

  /// Whether an answer that was found while `cls` had this version can be
  /// stored: the class has it still.
  static bool is_storable(const PyTypeObject* cls, ClassVersion version) {
    return version.is_valid() && version == ClassVersion::of(cls);
  }

  void store(const PyTypeObject* cls, ClassVersion version, Answer answer) {
    line_of(cls) = {cls, version, std::move(answer)};
  }

  void forget(const PyTypeObject* cls) {
    line_of(cls) = Line();
  }

 private:
  struct Line {
    const PyTypeObject* cls = nullptr;
    ClassVersion version;
    Answer answer{};
  };

  // Each thread's has fewer: it is there from the thread's first call.
  static constexpr size_t kLines = compat::kFreeThreaded ? 256 : 1024;

  Line& line_of(const PyTypeObject* cls) {
    const auto address = reinterpret_cast<uintptr_t>(cls);
    return lines_[(address >> 4 ^ address >> 14) % kLines];
  }

  std::array<Line, kLines> lines_;
  unsigned int generation_ = 0;
};

// --- Attributes as they stand in the dict of a class -------------------------

/// Whether cls.<name> is what stands in the dict of the class or a base, after
/// its __get__, for each of these names: the metaclass has no attribute of that
/// name, and no __getattribute__ of its own.
inline bool has_plain_attributes(
    PyTypeObject* cls,
    std::initializer_list<PyObject*> names) {
  PyTypeObject* metaclass = Py_TYPE(cls);
  if (metaclass->tp_getattro != PyType_Type.tp_getattro) {
    return false;
  }
  for (PyObject* name : names) {
    if (compat::type_lookup(metaclass, name)) {
      return false;
    }
  }
  return true;
}

/// The value of a plain attribute: what cls.<name> is if `attribute` stands in
/// the dict. Held meanwhile, since its __get__ may change the class.
inline Ref resolve(Ref attribute, PyTypeObject* cls) {
  if (descrgetfunc get = Py_TYPE(attribute.get())->tp_descr_get) {
    return checked(
        get(attribute.get(), nullptr, reinterpret_cast<PyObject*>(cls)));
  }
  return attribute;
}

inline bool is_constant(const Ref& attribute) {
  return attribute && Py_TYPE(attribute.get())->tp_descr_get == nullptr;
}

/// Whether resolve() gives the same each time until the class is changed.
inline bool is_stable(const Ref& attribute) {
  return attribute &&
      (PyFunction_Check(attribute.get()) ||
       Py_IS_TYPE(attribute.get(), &PyStaticMethod_Type) ||
       is_constant(attribute));
}

} // namespace torch_ext
