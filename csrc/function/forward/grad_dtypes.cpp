// SPDX-License-Identifier: BSD-3-Clause
#include <function/forward/grad_dtypes.h>

#include <python/error.h>
#include <python/tensor.h>

#include <torch/csrc/Dtype.h>

#include <utility>

namespace torch_ext {

namespace {

std::optional<at::ScalarType> to_dtype(PyObject* declaration) {
  if (Py_IsNone(declaration)) {
    return std::nullopt;
  }
  TORCH_CHECK(
      THPDtype_Check(declaration),
      "set_output_grad_dtype expects each declaration to be a torch.dtype or "
      "None, but got ",
      Py_TYPE(declaration)->tp_name);
  return reinterpret_cast<THPDtype*>(declaration)->scalar_type;
}

} // namespace

GradDtypes::GradDtypes(
    Ctx& ctx,
    c10::ArrayRef<PyObject*> raw_outputs,
    const Marked& non_differentiable) {
  const Ref declarations = Ref::share(ctx.output_grad_dtypes());
  if (!declarations) {
    return;
  }
  PyObject* declared = declarations.get();
  TORCH_CHECK(
      PyTuple_Check(declared),
      "set_output_grad_dtype expects the declarations to be a tuple, but got: ",
      Py_TYPE(declared)->tp_name);
  const auto count = static_cast<Py_ssize_t>(raw_outputs.size());
  TORCH_CHECK(
      PyTuple_GET_SIZE(declared) == count,
      "set_output_grad_dtype expected the number of declarations to match the "
      "number of outputs: the Function returned ",
      count,
      " values but ",
      PyTuple_GET_SIZE(declared),
      " declarations were provided");
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* output = raw_outputs[static_cast<size_t>(i)];
    dtypes_.push_back(to_dtype(PyTuple_GET_ITEM(declared, i)));
    TORCH_CHECK(
        !dtypes_.back() ||
            (is_real_tensor(output) &&
             is_differentiable(THPVariable_Unpack(output), non_differentiable)),
        "set_output_grad_dtype: got a concrete dtype for output ",
        i,
        ", but that output is not a differentiable tensor (it is a non-tensor, "
        "was marked non-differentiable, or has a non-differentiable dtype). "
        "Pass None for output ",
        i,
        " instead.");
  }
  Ref::steal(std::exchange(ctx.output_grad_dtypes(), nullptr));
}

void GradDtypes::declare(torch::autograd::Node& node) const {
  for (size_t i = 0; i < dtypes_.size(); ++i) {
    auto& metadata = node.mutable_input_metadata(i);
    if (!metadata.was_default_constructed()) {
      metadata.set_grad_dtype(dtypes_[i]);
    }
  }
}

} // namespace torch_ext
