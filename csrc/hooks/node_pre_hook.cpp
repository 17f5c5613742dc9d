// SPDX-License-Identifier: BSD-3-Clause
// Hooks on a node that run before it (Node.register_prehook): all gradients
// that it is about to be called with.
#include <hooks/hook_dict.h>
#include <python/error.h>
#include <python/gil.h>

#include <torch/csrc/autograd/python_hook.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

// torch's own, defined a second time: docs/architecture.md says why.
namespace torch::autograd {

using torch_ext::Gil;
using torch_ext::Ref;

PyFunctionPreHook::PyFunctionPreHook(PyObject* hooks)
    : dict(Py_NewRef(hooks)) {}

PyFunctionPreHook::~PyFunctionPreHook() {
  torch_ext::release_dict(dict);
}

variable_list PyFunctionPreHook::operator()(const variable_list& grad_outputs) {
  Gil gil;
  return torch_ext::persisting([&] {
    Ref value = torch_ext::wrap_tensors(grad_outputs);
    return torch_ext::call_hooks(dict, value)
        ? torch_ext::unwrap_tensors(value.get())
        : grad_outputs;
  });
}

void PyFunctionPreHook::compiled_args(CompiledNodeArgs& args) const {
  torch_ext::visit_hooks(dict, [&](c10::SafePyObject&& hook) {
    args.add_pre_hook(std::move(hook));
  });
}

} // namespace torch::autograd
