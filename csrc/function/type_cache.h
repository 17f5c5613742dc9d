// SPDX-License-Identifier: BSD-3-Clause
// What was found out about classes, to be used again while they are unchanged.
#pragma once

#include <compat.h>
#include <python/error.h>
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
  generation += compat::version_tags_restarted();
  return generation;
}

/// Answers by class.
///
/// Invariant: while the version tag of a class is the one in its line, and that
/// of its metaclass too, neither they nor a base of them has been changed. So
/// each attribute has the value that it had, and references in an answer may be
/// borrowed from what the class or a base keeps.
///
/// Each class has one line where it can stand, by its address, and takes the
/// place of the class that is there: so classes made by the thousand, as
/// functorch does, cost no memory. A line of a class that is gone is harmless,
/// since no other type gets its version tag. Guarded by the GIL; always empty
/// on free-threaded Python.
template <typename Answer>
class TypeCache {
 public:
  /// The answer for `cls`; null if there is none. Valid until Python code runs.
  const Answer* find(const PyTypeObject* cls) {
    if (compat::kFreeThreaded) {
      return nullptr;
    }
    if (const unsigned int now = tag_generation(); now != generation_) {
      generation_ = now;
      lines_.fill(Line());
    }
    const Line& line = line_of(cls);
    const bool is_current = line.cls == cls && line.version != 0 &&
        line.version == compat::type_version(cls) &&
        line.metaclass_version == compat::type_version(Py_TYPE(cls));
    return is_current ? &line.answer : nullptr;
  }

  /// Whether an answer that was found while `cls` had the tag `version` can be
  /// stored: the class has it still.
  static bool is_storable(const PyTypeObject* cls, unsigned int version) {
    return !compat::kFreeThreaded && version != 0 &&
        version == compat::type_version(cls) &&
        compat::type_version(Py_TYPE(cls)) != 0;
  }

  void store(const PyTypeObject* cls, Answer answer) {
    line_of(cls) = {
        cls,
        compat::type_version(cls),
        compat::type_version(Py_TYPE(cls)),
        std::move(answer)};
  }

  void forget(const PyTypeObject* cls) {
    line_of(cls) = Line();
  }

 private:
  struct Line {
    const PyTypeObject* cls = nullptr;
    unsigned int version = 0;
    unsigned int metaclass_version = 0;
    Answer answer{};
  };

  Line& line_of(const PyTypeObject* cls) {
    const auto address = reinterpret_cast<uintptr_t>(cls);
    return lines_[(address >> 4 ^ address >> 14) % lines_.size()];
  }

  std::array<Line, 1024> lines_;
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
