// SPDX-License-Identifier: BSD-3-Clause
#include <anomaly/forward_checks.h>

#include <anomaly/checks.h>
#include <anomaly/finite.h>
#include <anomaly/python_modules.h>
#include <anomaly/saved_sums.h>
#include <compat.h>
#include <python/error.h>
#include <python/gil.h>

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <cstdint>
#include <string>
#include <utility>

namespace torch_ext {

namespace {

template <typename Visit>
void for_each_tensor(c10::ArrayRef<c10::IValue> values, const Visit& visit) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i].isTensor()) {
      visit(i, values[i].toTensor());
    } else if (values[i].isTensorList()) {
      for (const at::Tensor& tensor : values[i].toTensorVector()) {
        visit(i, tensor);
      }
    }
  }
}

/// The node that made a tensor, as it stands: tensor.grad_fn() may make a new
/// one for a view. Null if there is none.
compat::NodePtr maker_of(const at::Tensor& tensor) {
  const auto* meta = torch::autograd::impl::get_autograd_meta(tensor);
  return meta == nullptr ? compat::NodePtr() : meta->grad_fn_;
}

/// A result's node and which of its outputs it is. Of a view that was changed in
/// place they are its base's: its own node only shows the base's values.
std::pair<compat::NodePtr, std::uint32_t> origin_of(
    const at::Tensor& result,
    const SeenCall& call) {
  if (call.schema != nullptr && call.schema->is_mutable()) {
    const auto* view = torch::autograd::impl::get_view_autograd_meta(result);
    if (view != nullptr && view->has_bw_view()) {
      return {maker_of(view->get_backward_view().base_), 0};
    }
  }
  return {maker_of(result), result.output_nr()};
}

/// [(name, tensor, whether the call has changed it)]
Ref list_arguments(const SeenCall& call) {
  Ref list = checked(PyList_New(0));
  for_each_tensor(call.arguments, [&](size_t i, const at::Tensor& tensor) {
    if (!tensor.defined()) {
      return;
    }
    const c10::Argument* declared =
        call.schema == nullptr ? nullptr : &call.schema->arguments()[i];
    const bool is_changed = declared != nullptr &&
        declared->alias_info() != nullptr && declared->alias_info()->isWrite();
    const std::string name = declared == nullptr
        ? "argument " + std::to_string(i)
        : declared->name();
    Ref object = checked(THPVariable_Wrap(tensor));
    Ref item = checked(Py_BuildValue(
        "(sOO)", name.c_str(), object.get(), is_changed ? Py_True : Py_False));
    check_status(PyList_Append(list.get(), item.get()));
  });
  return list;
}

/// Raises the error, with a report.
void refuse(
    const compat::NodePtr& node,
    std::uint32_t output,
    const at::Tensor& result,
    const char* fault,
    const SeenCall& call) {
  Gil gil;
  persisting([&] {
    Ref module = checked(PyImport_ImportModule(kFailuresModule));
    Ref made_by = checked(torch::autograd::functionToPyObject(node));
    Ref object = checked(THPVariable_Wrap(result));
    Ref arguments = list_arguments(call);
    Ref error = checked(PyObject_CallMethod(
        module.get(),
        "refuse_result",
        "OIsOsO",
        made_by.get(),
        output,
        call.schema == nullptr ? "" : call.schema->name().c_str(),
        object.get(),
        fault,
        arguments.get()));
    // Here, so that the traceback ends with the call.
    PyErr_SetObject(
        reinterpret_cast<PyObject*>(Py_TYPE(error.get())), error.get());
    throw_python_error();
  });
}

} // namespace

void check_call(const SeenCall& call) {
  const Aside aside;
  for_each_tensor(call.results, [&](size_t, const at::Tensor& result) {
    if (!result.defined()) {
      return;
    }
    const auto [node, output] = origin_of(result, call);
    if (!node) {
      return;
    }
    if (checks().saved) {
      remember_saved(node);
    }
    if (checks().forward && has_numbers(result)) {
      if (const char* fault = fault_of(result, checks().inf)) {
        refuse(node, output, result, fault, call);
      }
    }
  });
}

} // namespace torch_ext
