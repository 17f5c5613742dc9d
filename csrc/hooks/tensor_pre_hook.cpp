// SPDX-License-Identifier: BSD-3-Clause
// Hooks on a tensor (Tensor.register_hook): its gradient, before the node that
// it flows into.
#include <hooks/hook_dict.h>
#include <python/error.h>
#include <python/gil.h>

#include <torch/csrc/autograd/python_hook.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

// torch's own, defined a second time: docs/architecture.md says why.
namespace torch::autograd {

using torch_ext::Gil;
using torch_ext::Ref;

PyFunctionTensorPreHook::PyFunctionTensorPreHook(
    PyObject* hooks,
    size_t value_idx)
    : dict(Py_NewRef(hooks)), value_idx(value_idx) {}

PyFunctionTensorPreHook::~PyFunctionTensorPreHook() {
  torch_ext::release_dict(dict);
}

variable_list PyFunctionTensorPreHook::operator()(const variable_list& values) {
  Gil gil;
  return torch_ext::persisting([&] {
    Ref value = torch_ext::checked(THPVariable_Wrap(values.at(value_idx)));
    bool replaced = torch_ext::call_hooks(dict, value);
    variable_list results(values);
    if (replaced) {
      results[value_idx] = THPVariable_Unpack(value.get());
    }
    return results;
  });
}

void PyFunctionTensorPreHook::compiled_args(CompiledNodeArgs& args) const {
  torch_ext::visit_hooks(dict, [&](c10::SafePyObject&& hook) {
    args.add_tensor_pre_hook(std::move(hook), static_cast<int>(value_idx));
  });
}

} // namespace torch::autograd
