// SPDX-License-Identifier: BSD-3-Clause
// Hooks on a node that run after it (Node.register_hook): the gradients that it
// returned, and those that it was called with.
#include <hooks/hook_dict.h>
#include <python/error.h>
#include <python/gil.h>

#include <torch/csrc/autograd/python_hook.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

// torch's own, defined a second time: docs/architecture.md says why.
namespace torch::autograd {

using torch_ext::Gil;
using torch_ext::Ref;

PyFunctionPostHook::PyFunctionPostHook(PyObject* hooks)
    : dict(Py_NewRef(hooks)) {}

PyFunctionPostHook::~PyFunctionPostHook() {
  torch_ext::release_dict(dict);
}

variable_list PyFunctionPostHook::operator()(
    const variable_list& grad_inputs,
    const variable_list& grad_outputs) {
  Gil gil;
  return torch_ext::persisting([&] {
    Ref value = torch_ext::wrap_tensors(grad_inputs);
    Ref context = torch_ext::wrap_tensors(grad_outputs);
    return torch_ext::call_hooks(dict, value, context.get())
        ? torch_ext::unwrap_tensors(value.get())
        : grad_inputs;
  });
}

void PyFunctionPostHook::compiled_args(CompiledNodeArgs& args) const {
  torch_ext::visit_hooks(dict, [&](c10::SafePyObject&& hook) {
    args.add_post_hook(std::move(hook));
  });
}

} // namespace torch::autograd
