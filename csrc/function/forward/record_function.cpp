#include <function/profile.h>

#include <python/error.h>

#include <ATen/SequenceNumber.h>
#include <ATen/core/jit_type.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/python/pybind_utils.h>
#include <torch/csrc/profiler/api.h>

namespace torch_ext {

namespace {

c10::TypePtr infer_type(PyObject* value);

/// The one type of all items of a list that only the caller has, or null.
c10::TypePtr infer_item_type(const Ref& list) {
  c10::TypePtr common;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list.get()); ++i) {
    c10::TypePtr type = infer_type(PyList_GET_ITEM(list.get(), i));
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

c10::TypePtr infer_tuple_type(PyObject* tuple) {
  std::vector<c10::TypePtr> types;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); ++i) {
    types.push_back(infer_type(PyTuple_GET_ITEM(tuple, i)));
    if (types.back() == nullptr) {
      return nullptr;
    }
  }
  return c10::TupleType::create(std::move(types));
}

c10::TypePtr infer_dict_type(PyObject* dict) {
  c10::TypePtr key_type = infer_item_type(checked(PyDict_Keys(dict)));
  c10::TypePtr value_type = infer_item_type(checked(PyDict_Values(dict)));
  return key_type != nullptr && value_type != nullptr
      ? c10::DictType::create(std::move(key_type), std::move(value_type))
      : nullptr;
}

/// The type of None, a number, or a container of those (a list or dict not
/// empty and of one type); null for anything else: the values that torch's
/// profiler is shown.
c10::TypePtr infer_type(PyObject* value) {
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
    return infer_tuple_type(value);
  }
  if (PyDict_Check(value)) {
    return infer_dict_type(value);
  }
  if (PyList_Check(value)) {
    c10::TypePtr type = infer_item_type(
        checked(PyList_GetSlice(value, 0, PY_SSIZE_T_MAX)));
    return type != nullptr ? c10::ListType::create(std::move(type)) : nullptr;
  }
  return nullptr;
}

/// The values that the observers get: tensors where they ask for inputs, other
/// values of simple types where the profiler records shapes.
std::vector<c10::IValue> observed_inputs(
    const Arguments& arguments,
    bool with_tensors) {
  using namespace torch::autograd;
  const bool with_others = profiler::profilerEnabled() &&
      profiler::getProfilerConfig().report_input_shapes;
  std::vector<c10::IValue> values;
  for (PyObject* argument : arguments) {
    if (THPVariable_Check(argument)) {
      if (with_tensors) {
        values.emplace_back(THPVariable_Unpack(argument));
      }
    } else if (with_others) {
      if (c10::TypePtr type = infer_type(argument)) {
        values.push_back(torch::jit::toIValue(argument, type));
      }
    }
  }
  return values;
}

} // namespace

void ObservedCall::begin(
    at::StepCallbacks&& callbacks,
    PyTypeObject* cls,
    const Arguments& arguments) {
  // The number that the call's node is about to get links the two.
  const auto sequence_nr =
      static_cast<int64_t>(at::sequence_number::peek());
  record_.emplace(std::move(callbacks));
  const bool with_tensors = record_->needsInputs();
  const std::vector<c10::IValue> inputs =
      observed_inputs(arguments, with_tensors);
  if (with_tensors) {
    record_->before(
        cls->tp_name,
        c10::ArrayRef<const c10::IValue>(inputs.data(), inputs.size()),
        sequence_nr);
  } else {
    record_->before(cls->tp_name, sequence_nr);
  }
}

} // namespace torch_ext
