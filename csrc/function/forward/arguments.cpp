// SPDX-License-Identifier: BSD-3-Clause
#include <function/forward/arguments.h>

#include <compat.h>
#include <python/error.h>
#include <python/names.h>
#include <python/tuple.h>

#include <c10/util/SmallVector.h>

#include <algorithm>
#include <initializer_list>
#include <utility>

namespace torch_ext {

namespace {

/// Positional arguments and the keyword arguments that are left.
struct Bound {
  Arguments positional;
  Ref keywords; // a dict, or null
};

Ref to_dict(PyObject* names, PyObject* const* values) {
  Ref dict = checked(PyDict_New());
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); ++i) {
    check_status(
        PyDict_SetItem(dict.get(), PyTuple_GET_ITEM(names, i), values[i]));
  }
  return dict;
}

/// `forward` if it is a Python function whose signature is all in its code and
/// defaults; null otherwise. inspect.signature would look at the two attributes
/// that are tested here, too.
PyFunctionObject* as_plain_function(PyObject* forward) {
  if (!PyFunction_Check(forward)) {
    return nullptr;
  }
  auto* function = reinterpret_cast<PyFunctionObject*>(forward);
  const Ref dict = Ref::share(function->func_dict);
  if (dict && PyDict_GET_SIZE(dict.get()) != 0) {
    for (PyObject* name : std::initializer_list<PyObject*>{
             names.__wrapped__, names.__signature__}) {
      int found = PyDict_Contains(dict.get(), name);
      check_status(found);
      if (found) {
        return nullptr;
      }
    }
  }
  return function;
}

/// The index of `name` among `parameters`, counted from `first`; -1 if it is
/// none of them.
Py_ssize_t find_parameter(
    PyObject* parameters,
    Py_ssize_t first,
    Py_ssize_t last,
    PyObject* name) {
  for (Py_ssize_t i = first; i < last; ++i) {
    if (PyUnicode_Compare(name, PyTuple_GET_ITEM(parameters, i)) == 0) {
      return i - first;
    }
  }
  return -1;
}

/// Arguments in the places of the parameters that they are for; null where
/// there is none.
using Places = c10::SmallVector<PyObject*, 16>;

/// Puts keyword arguments in their places. Returns false if one doesn't fit:
/// bind_by_signature() then says why, or has a place for it.
bool fill_by_name(
    Places& places,
    PyCodeObject* code,
    PyObject* keywords,
    PyObject* const* values) {
  const Ref parameters = compat::code_varnames(code);
  const Py_ssize_t first = code->co_posonlyargcount;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(keywords); ++i) {
    PyObject* name = PyTuple_GET_ITEM(keywords, i);
    const Py_ssize_t found = PyUnicode_Check(name)
        ? find_parameter(parameters.get(), first, code->co_argcount, name)
        : -1;
    if (found < 0 || places[static_cast<size_t>(first + found)] != nullptr) {
      return false;
    }
    places[static_cast<size_t>(first + found)] = values[i];
  }
  return true;
}

/// Puts default values, a tuple or null, in the places that are left. Returns
/// false if there is none for one of them, or more than places, which inspect
/// and Python count in different ways.
bool fill_by_default(Places& places, PyObject* defaults) {
  const auto count = static_cast<Py_ssize_t>(places.size());
  const Py_ssize_t available =
      defaults == nullptr ? 0 : PyTuple_GET_SIZE(defaults);
  if (available > count) {
    return false;
  }
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject*& place = places[static_cast<size_t>(i)];
    if (place == nullptr) {
      if (i < count - available) {
        return false;
      }
      place = PyTuple_GET_ITEM(defaults, available - count + i);
    }
  }
  return true;
}

/// Binds arguments without inspect.signature if it would do the same. Returns
/// whether it did; `tuple` is set if they are not those that were given, in
/// their order.
bool bind_plain(
    PyObject* forward,
    PyObject* const* items,
    Py_ssize_t count,
    PyObject* keywords,
    Ref& tuple) {
  compat::CriticalSection of_function(forward);
  PyFunctionObject* function = as_plain_function(forward);
  if (function == nullptr) {
    return false;
  }
  auto* code = reinterpret_cast<PyCodeObject*>(function->func_code);
  if (code->co_kwonlyargcount != 0) {
    return false;
  }
  if (keywords == nullptr && count >= code->co_argcount) {
    return count == code->co_argcount || (code->co_flags & CO_VARARGS) != 0;
  }
  if (count > code->co_argcount) {
    return false;
  }
  Places places(items, items + count);
  places.resize(static_cast<size_t>(code->co_argcount), nullptr);
  if ((keywords != nullptr &&
       !fill_by_name(places, code, keywords, items + count)) ||
      !fill_by_default(places, function->func_defaults)) {
    return false;
  }
  tuple = tuple_of(
      places.size(), [&places](size_t i) { return Ref::share(places[i]); });
  return true;
}

/// The same for any signature: inspect.signature(forward).bind(), with defaults
/// applied.
Bound bind_by_signature(
    PyObject* forward,
    PyObject* const* items,
    Py_ssize_t count,
    PyObject* keywords) {
  Ref inspect = checked(PyImport_ImportModule("inspect"));
  Ref signature =
      checked(PyObject_CallMethod(inspect.get(), "signature", "O", forward));
  Ref bind = checked(PyObject_GetAttrString(signature.get(), "bind"));
  Ref bound = checked(PyObject_Vectorcall(
      bind.get(), items, static_cast<size_t>(count), keywords));
  checked(PyObject_CallMethod(bound.get(), "apply_defaults", nullptr));
  Ref args = checked(PyObject_GetAttrString(bound.get(), "args"));
  Ref kwargs = checked(PyObject_GetAttrString(bound.get(), "kwargs"));
  return {Arguments(std::move(args)), std::move(kwargs)};
}

/// Puts keyword arguments in their places by the names in forward's code, as
/// torch does for a forward that takes ctx. A gap is an error even if the
/// parameter has a default, which only the call itself fills in.
Arguments place_keywords(const ClassRecord& record, const Bound& bound) {
  Ref code_object =
      checked(PyObject_GetAttr(record.forward.get(), names.__code__));
  if (!PyCode_Check(code_object.get())) {
    raise(PyExc_TypeError, "forward().__code__ is not a code object");
  }
  auto* code = reinterpret_cast<PyCodeObject*>(code_object.get());
  Ref parameters = compat::code_varnames(code);
  const Py_ssize_t first = record.separate_setup ? 0 : 1; // after ctx
  const Py_ssize_t given = bound.positional.size();

  Py_ssize_t total = given;
  PyObject* name = nullptr;
  PyObject* value = nullptr;
  Py_ssize_t position = 0;
  while (PyDict_Next(bound.keywords.get(), &position, &name, &value)) {
    if (!PyUnicode_Check(name)) {
      raise(PyExc_TypeError, "keywords must be strings");
    }
    const Py_ssize_t place =
        find_parameter(parameters.get(), first, code->co_argcount, name);
    if (place < 0) {
      raise(
          PyExc_TypeError,
          "forward() got an unexpected keyword argument '%U'",
          name);
    }
    if (place < given) {
      raise(
          PyExc_TypeError,
          "forward() got multiple values for argument '%U'",
          name);
    }
    total = std::max(total, place + 1);
  }
  if (total > code->co_argcount - first) {
    raise(
        PyExc_TypeError,
        "forward() takes %zd positional arguments but %zd were given",
        code->co_argcount - first,
        total);
  }

  Ref tuple = checked(PyTuple_New(total));
  for (Py_ssize_t i = 0; i < given; ++i) {
    PyTuple_SET_ITEM(tuple.get(), i, Py_NewRef(bound.positional[i]));
  }
  position = 0;
  while (PyDict_Next(bound.keywords.get(), &position, &name, &value)) {
    const Py_ssize_t place =
        find_parameter(parameters.get(), first, code->co_argcount, name);
    PyTuple_SET_ITEM(tuple.get(), place, Py_NewRef(value));
  }
  for (Py_ssize_t i = given; i < total; ++i) {
    if (PyTuple_GET_ITEM(tuple.get(), i) == nullptr) {
      raise(
          PyExc_TypeError,
          "forward() missing required argument: '%U' (position %zd)",
          PyTuple_GET_ITEM(parameters.get(), i + first),
          i);
    }
  }
  return Arguments(std::move(tuple));
}

/// Throws what torch does if its apply takes no keyword arguments.
[[noreturn]] void refuse_keywords(
    const ClassRecord& record,
    PyObject* const* items,
    Py_ssize_t count,
    PyObject* keywords) {
  if (record.separate_setup) {
    bind_by_signature(record.forward.get(), items, count, keywords);
  }
  raise(PyExc_TypeError, "apply() takes no keyword arguments");
}

} // namespace

Ref Arguments::tuple() const {
  return tuple_ ? Ref::share(tuple_.get())
                : tuple_of(static_cast<size_t>(count_), [this](size_t i) {
                    return Ref::share(items_[i]);
                  });
}

Arguments bind_arguments(
    const ClassRecord& record,
    PyObject* const* items,
    Py_ssize_t count,
    PyObject* keywords) {
  const bool has_keywords =
      keywords != nullptr && PyTuple_GET_SIZE(keywords) != 0;
  if (has_keywords && !record.takes_keywords) {
    refuse_keywords(record, items, count, keywords);
  }
  if (!record.separate_setup) {
    if (!has_keywords) {
      return Arguments(items, count);
    }
    return place_keywords(
        record, {Arguments(items, count), to_dict(keywords, items + count)});
  }
  Ref tuple;
  if (bind_plain(
          record.forward.get(),
          items,
          count,
          has_keywords ? keywords : nullptr,
          tuple)) {
    return tuple ? Arguments(std::move(tuple)) : Arguments(items, count);
  }
  Bound bound = bind_by_signature(record.forward.get(), items, count, keywords);
  // A torch whose apply takes no keyword arguments drops the defaults of
  // forward's keyword-only parameters here; forward then fills them in itself.
  if (PyDict_GET_SIZE(bound.keywords.get()) == 0 ||
      (!compat::kApplyTakesKeywords && !has_keywords)) {
    return std::move(bound.positional);
  }
  return place_keywords(record, bound);
}

} // namespace torch_ext
