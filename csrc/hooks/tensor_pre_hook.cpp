// Hooks on a tensor (Tensor.register_hook), run before its grad_fn.
#include <python/error.h>
#include <python/gil.h>

#include <torch/csrc/PyInterpreter.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/python_hook.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

namespace torch::autograd {

namespace {

using torch_ext::check_status;
using torch_ext::checked;
using torch_ext::Gil;
using torch_ext::raise;
using torch_ext::Ref;

std::string hook_name(PyObject* hook) {
  Ref name = Ref::steal(PyObject_GetAttrString(hook, "__name__"));
  const char* text = name && PyUnicode_Check(name.get())
      ? PyUnicode_AsUTF8(name.get())
      : nullptr;
  if (text == nullptr) {
    PyErr_Clear();
    return "<unknown>";
  }
  return text;
}

/// Throws where `result`, which `hook` returned, can't stand for `original`.
void check_result(PyObject* original, PyObject* result, PyObject* hook) {
  if (original == Py_None) {
    throw std::runtime_error(
        "can't replace a None gradient with a non-None value");
  }
  int is_tensor = PyObject_IsInstance(result, THPVariableClass);
  check_status(is_tensor);
  if (!is_tensor) {
    raise(
        PyExc_TypeError,
        "expected Variable, but hook returned '%s'",
        Py_TYPE(result)->tp_name);
  }
  check_variable_result(
      THPVariable_Unpack(original), THPVariable_Unpack(result), hook_name(hook));
}

} // namespace

PyFunctionTensorPreHook::PyFunctionTensorPreHook(
    PyObject* hooks,
    size_t value_idx)
    : dict(Py_NewRef(hooks)), value_idx(value_idx) {}

PyFunctionTensorPreHook::~PyFunctionTensorPreHook() {
  // Once Python is gone its objects are left where they are.
  if (Py_IsInitialized()) {
    Gil gil;
    Py_DECREF(dict);
  }
}

variable_list PyFunctionTensorPreHook::operator()(const variable_list& values) {
  Gil gil;
  return torch_ext::persisting([&] {
    Ref value = checked(THPVariable_Wrap(values.at(value_idx)));
    // A list of its own keeps the hooks alive, and the order, while hooks add
    // and remove hooks.
    Ref hooks = checked(PyDict_Values(dict));
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(hooks.get()); ++i) {
      PyObject* hook = PyList_GET_ITEM(hooks.get(), i);
      Ref result = checked(PyObject_CallOneArg(hook, value.get()));
      if (result.get() != Py_None) {
        check_result(value.get(), result.get(), hook);
        value = std::move(result);
      }
    }
    variable_list results(values);
    if (value.get() != Py_None) {
      results[value_idx] = THPVariable_Unpack(value.get());
    }
    return results;
  });
}

void PyFunctionTensorPreHook::compiled_args(CompiledNodeArgs& args) const {
  Gil gil;
  PyObject* key = nullptr;
  PyObject* hook = nullptr;
  Py_ssize_t position = 0;
  while (PyDict_Next(dict, &position, &key, &hook)) {
    args.add_tensor_pre_hook(
        c10::SafePyObject(Py_NewRef(hook), getPyInterpreter()),
        static_cast<int>(value_idx));
  }
}

} // namespace torch::autograd
