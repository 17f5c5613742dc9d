// SPDX-License-Identifier: BSD-3-Clause
// Hooks on a leaf that run once its .grad is there
// (Tensor.register_post_accumulate_grad_hook).
#include <hooks/hook_dict.h>
#include <python/error.h>
#include <python/gil.h>

#include <torch/csrc/autograd/python_hook.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

// torch's own, defined a second time: docs/architecture.md says why.
namespace torch::autograd {

using torch_ext::checked;
using torch_ext::Gil;
using torch_ext::Ref;

PyFunctionTensorPostAccGradHooks::PyFunctionTensorPostAccGradHooks(
    PyObject* hooks)
    : dict(Py_NewRef(hooks)) {}

PyFunctionTensorPostAccGradHooks::~PyFunctionTensorPostAccGradHooks() {
  torch_ext::release_dict(dict);
}

void PyFunctionTensorPostAccGradHooks::operator()(const Variable& tensor) {
  Gil gil;
  torch_ext::persisting([&] {
    Ref value = checked(THPVariable_Wrap(tensor));
    // As torch does, only after the last hook, which has seen what the others
    // returned.
    bool replaced = torch_ext::call_hooks(dict, value);
    TORCH_CHECK(
        !replaced, "Tensor post accumulate grad hooks should return None.");
  });
}

void PyFunctionTensorPostAccGradHooks::compiled_args(
    CompiledNodeArgs& args) const {
  torch_ext::visit_hooks(dict, [&](c10::SafePyObject&& hook) {
    args.add_post_acc_grad_hook(std::move(hook));
  });
}

void PyFunctionTensorPostAccGradHooks::apply_with_saved(
    Variable& tensor,
    SwapSavedVariables& saved) {
  Gil gil;
  torch_ext::persisting([&] {
    for (int hook : saved.get_curr_node_call().post_acc_grad_hooks) {
      Ref value = checked(THPVariable_Wrap(tensor));
      checked(PyObject_CallMethod(
          saved.get_py_compiler(),
          "post_acc_grad_hook",
          "Oi",
          value.get(),
          hook));
    }
  });
}

} // namespace torch::autograd
