#include <function/jvp.h>

#include <python/error.h>
#include <python/gil.h>
#include <python/names.h>
#include <torch/csrc/autograd/python_variable.h>

#include <ATen/Functions.h>

namespace torch_ext {

using torch::autograd::variable_list;

namespace {

Ref tangent_object(
    const State& state,
    const at::Tensor& input,
    const at::Tensor& tangent) {
  if (tangent.defined() || !state.base.materialize_grads ||
      !torch::autograd::isDifferentiableType(input.scalar_type())) {
    return checked(THPVariable_Wrap(tangent));
  }
  return checked(THPVariable_Wrap(at::zeros_like(input)));
}

} // namespace

variable_list call_jvp(
    State& state,
    const variable_list& inputs,
    const variable_list& tangents) {
  Gil gil;
  const std::vector<bool>& is_tensor = state.base.is_variable_input;
  Ref arguments = checked(PyTuple_New(static_cast<Py_ssize_t>(is_tensor.size())));
  size_t next_tensor = 0;
  for (size_t i = 0; i < is_tensor.size(); ++i) {
    Ref argument = Ref::share(Py_None);
    if (is_tensor[i]) {
      argument =
          tangent_object(state, inputs[next_tensor], tangents[next_tensor]);
      ++next_tensor;
    }
    PyTuple_SET_ITEM(
        arguments.get(), static_cast<Py_ssize_t>(i), argument.release());
  }

  Ref jvp = checked(PyObject_GetAttr(state.object(), names.apply_jvp));
  Ref result =
      as_tuple(checked(PyObject_CallObject(jvp.get(), arguments.get())));

  variable_list output_tangents;
  const Py_ssize_t count = PyTuple_GET_SIZE(result.get());
  output_tangents.reserve(static_cast<size_t>(count));
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* tangent = PyTuple_GET_ITEM(result.get(), i);
    if (Py_IsNone(tangent)) {
      output_tangents.emplace_back();
      continue;
    }
    TORCH_CHECK(
        THPVariable_Check(tangent),
        "expected Variable or None (got ",
        Py_TYPE(tangent)->tp_name,
        ") for grad output ",
        i,
        ".")
    output_tangents.push_back(THPVariable_Unpack(tangent));
  }
  return output_tangents;
}

} // namespace torch_ext
