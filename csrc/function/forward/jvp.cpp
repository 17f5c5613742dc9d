// SPDX-License-Identifier: BSD-3-Clause
#include <function/forward/jvp.h>

#include <python/error.h>
#include <python/gil.h>
#include <python/names.h>
#include <python/tensor.h>
#include <python/tuple.h>

#include <ATen/Functions.h>

namespace torch_ext {

using torch::autograd::variable_list;

namespace {

/// A tangent as jvp gets it: a missing one becomes zeros, or None if ctx
/// doesn't materialize it.
Ref tangent_object(
    const Ctx& ctx,
    const at::Tensor& input,
    const at::Tensor& tangent) {
  if (tangent.defined() || !ctx.base.materialize_grads ||
      !torch::autograd::isDifferentiableType(input.scalar_type())) {
    return checked(THPVariable_Wrap(tangent));
  }
  return checked(THPVariable_Wrap(at::zeros_like(input)));
}

} // namespace

variable_list call_jvp(
    Ctx& ctx,
    const variable_list& inputs,
    const variable_list& tangents) {
  Gil gil;
  const Flags is_tensor = ctx.are_tensors();
  size_t next_tensor = 0;
  Ref arguments = tuple_of(is_tensor.size(), [&](size_t i) {
    if (!is_tensor[i]) {
      return Ref::share(Py_None);
    }
    const size_t tensor = next_tensor++;
    return tangent_object(ctx, inputs[tensor], tangents[tensor]);
  });

  Ref jvp = checked(PyObject_GetAttr(ctx.object(), names.apply_jvp));
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
        is_real_tensor(tangent),
        "expected Variable or None (got ",
        Py_TYPE(tangent)->tp_name,
        ") for grad output ",
        i,
        ".");
    output_tangents.push_back(THPVariable_Unpack(tangent));
  }
  return output_tangents;
}

} // namespace torch_ext
