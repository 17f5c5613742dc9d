// SPDX-License-Identifier: BSD-3-Clause
#include <tracer/infer.h>

#include <compat.h>
#include <python/error.h>

#include <ATen/core/jit_type.h>
#include <torch/csrc/jit/python/module_python.h>
#include <torch/csrc/jit/python/pybind_utils.h>

#include <utility>
#include <vector>

namespace torch_ext {

namespace {

c10::TypePtr simple_type(PyObject* value);

/// The common type of the items of a list that only the caller has, or null.
c10::TypePtr simple_item_type(const Ref& list) {
  c10::TypePtr common;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list.get()); ++i) {
    c10::TypePtr type = simple_type(PyList_GET_ITEM(list.get(), i));
    if (type != nullptr && common != nullptr) {
      type = c10::unifyTypes(common, type).value_or(nullptr);
    }
    if (type == nullptr) {
      return nullptr;
    }
    common = std::move(type);
  }
  return common;
}

c10::TypePtr simple_tuple_type(PyObject* tuple) {
  std::vector<c10::TypePtr> types;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); ++i) {
    types.push_back(simple_type(PyTuple_GET_ITEM(tuple, i)));
    if (types.back() == nullptr) {
      return nullptr;
    }
  }
  return c10::TupleType::create(std::move(types));
}

c10::TypePtr simple_dict_type(PyObject* dict) {
  c10::TypePtr key_type = simple_item_type(checked(PyDict_Keys(dict)));
  c10::TypePtr value_type = simple_item_type(checked(PyDict_Values(dict)));
  return key_type != nullptr && value_type != nullptr
      ? c10::DictType::create(std::move(key_type), std::move(value_type))
      : nullptr;
}

/// The type of None, a number or a container of those; null for anything else.
c10::TypePtr simple_type(PyObject* value) {
  if (Py_IsNone(value)) {
    return c10::NoneType::get();
  }
  if (PyBool_Check(value)) {
    return c10::BoolType::get();
  }
  if (PyLong_Check(value)) {
    return c10::IntType::get();
  }
  if (PyFloat_Check(value)) {
    return c10::FloatType::get();
  }
  if (PyComplex_CheckExact(value)) {
    return c10::ComplexType::get();
  }
  if (PyTuple_Check(value)) {
    return simple_tuple_type(value);
  }
  if (PyDict_Check(value)) {
    return simple_dict_type(value);
  }
  if (PyList_Check(value)) {
    c10::TypePtr type =
        simple_item_type(checked(PyList_GetSlice(value, 0, PY_SSIZE_T_MAX)));
    return type != nullptr ? c10::ListType::create(std::move(type)) : nullptr;
  }
  return nullptr;
}

template <typename Holder>
c10::IValue object_value(const Holder& holder) {
  return c10::intrusive_ptr<c10::ivalue::Object>(holder._ivalue());
}

} // namespace

c10::IValue inferred_value(py::handle object) {
  // By way of Python, since torch doesn't export what the header's inference
  // calls.
  const py::object match =
      py::module_::import("torch._C").attr(compat::kInferType)(object);
  if (match.attr("success")().cast<bool>()) {
    return torch::jit::toIValue(
        object, match.attr("type")().cast<c10::TypePtr>());
  }
  if (auto module = torch::jit::as_module(object)) {
    return object_value(*module);
  }
  if (auto script_object = torch::jit::as_object(object)) {
    return object_value(*script_object);
  }
  TORCH_CHECK(
      false,
      "Tracer cannot infer type of ",
      std::string(py::str(object)),
      "\n:",
      match.attr("reason")().cast<std::string>());
}

std::optional<c10::IValue> simple_value(PyObject* object) {
  c10::TypePtr type = simple_type(object);
  if (type == nullptr) {
    return std::nullopt;
  }
  return torch::jit::toIValue(object, type);
}

} // namespace torch_ext
