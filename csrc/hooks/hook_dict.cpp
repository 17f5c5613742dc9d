// SPDX-License-Identifier: BSD-3-Clause
#include <hooks/hook_dict.h>

#include <compat.h>
#include <python/call.h>
#include <python/error.h>
#include <python/gil.h>
#include <python/tensor.h>
#include <python/tuple.h>

#include <c10/util/SmallVector.h>
#include <torch/csrc/PyInterpreter.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/utils/python_strings.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace torch_ext {

namespace {

using torch::autograd::variable_list;

std::string hook_name(PyObject* hook) {
  Ref name = Ref::steal(PyObject_GetAttrString(hook, "__name__"));
  if (!name) {
    PyErr_Clear();
  }
  return name && THPUtils_checkString(name.get())
      ? THPUtils_unpackString(name.get())
      : "<unknown>";
}

/// Throws if `result`, which `hook` returned, can't take the place of the
/// tensor `value`.
void check_tensor(PyObject* value, PyObject* result, PyObject* hook) {
  if (result == Py_None) {
    return;
  }
  if (value == Py_None) {
    throw std::runtime_error(
        "can't replace a None gradient with a non-None value");
  }
  if (!has_tensor_type(result)) {
    raise(
        PyExc_TypeError,
        "expected Variable, but hook returned '%s'",
        Py_TYPE(result)->tp_name);
  }
  if (!has_tensor_type(value)) {
    // A hook before this one returned a subclass of tuple. torch takes that
    // for a tensor, and crashes.
    raise(
        PyExc_TypeError,
        "expected tuple, but hook returned '%s'",
        Py_TYPE(result)->tp_name);
  }
  torch::autograd::check_variable_result(
      THPVariable_Unpack(value), THPVariable_Unpack(result), hook_name(hook));
}

/// The same for a tuple of tensors.
void check_tuple(PyObject* value, PyObject* result, PyObject* hook) {
  if (!PyTuple_Check(result)) {
    raise(
        PyExc_TypeError,
        "expected tuple, but hook returned '%s'",
        Py_TYPE(result)->tp_name);
  }
  const Py_ssize_t expected = PyTuple_GET_SIZE(value);
  const Py_ssize_t size = PyTuple_GET_SIZE(result);
  if (size != expected) {
    throw std::runtime_error(
        "hook '" + hook_name(hook) +
        "' has returned an incorrect number of values (got " +
        std::to_string(size) + ", but expected " + std::to_string(expected) +
        ")");
  }
  for (Py_ssize_t i = 0; i < size; ++i) {
    check_tensor(PyTuple_GET_ITEM(value, i), PyTuple_GET_ITEM(result, i), hook);
  }
}

using HookList = c10::SmallVector<Ref, 4>;

/// The hooks as they are now, each held: hooks add and remove hooks.
HookList hooks_of(PyObject* dict) {
  HookList hooks;
  compat::CriticalSection of_dict(dict);
  PyObject* key = nullptr;
  PyObject* hook = nullptr;
  Py_ssize_t position = 0;
  while (PyDict_Next(dict, &position, &key, &hook)) {
    hooks.push_back(Ref::share(hook));
  }
  return hooks;
}

} // namespace

bool call_hooks(PyObject* dict, Ref& value, PyObject* context) {
  bool replaced = false;
  for (const Ref& hook : hooks_of(dict)) {
    CallArguments arguments;
    arguments.add(value.get());
    if (context != nullptr) {
      arguments.add(context);
    }
    Ref result = arguments.call(hook.get());
    if (result.get() == Py_None || result.get() == value.get()) {
      continue;
    }
    auto check = PyTuple_CheckExact(value.get()) ? check_tuple : check_tensor;
    check(value.get(), result.get(), hook.get());
    value = std::move(result);
    replaced = true;
  }
  return replaced;
}

Ref wrap_tensors(const variable_list& tensors) {
  return tuple_of(tensors.size(), [&](size_t i) {
    return checked(THPVariable_Wrap(tensors[i]));
  });
}

variable_list unwrap_tensors(PyObject* tuple) {
  variable_list tensors(PyTuple_GET_SIZE(tuple));
  for (size_t i = 0; i < tensors.size(); ++i) {
    PyObject* item = PyTuple_GET_ITEM(tuple, static_cast<Py_ssize_t>(i));
    if (item != Py_None) {
      tensors[i] = THPVariable_Unpack(item);
    }
  }
  return tensors;
}

void visit_hooks(
    PyObject* dict,
    const std::function<void(c10::SafePyObject&&)>& add) {
  Gil gil;
  for (Ref& hook : hooks_of(dict)) {
    add(c10::SafePyObject(hook.release(), getPyInterpreter()));
  }
}

void release_dict(PyObject* dict) noexcept {
  ThreadFreeRef owner(Ref::steal(dict));
}

} // namespace torch_ext
