#include <function/inputs.h>

#include <python/error.h>
#include <python/names.h>
#include <torch/csrc/autograd/python_variable.h>

namespace torch_ext {

Inputs::Inputs(const Arguments& arguments) {
  const auto count = static_cast<size_t>(arguments.size());
  is_tensor.reserve(count);
  requires_grad.reserve(count);
  bool any_requires_grad = false;
  for (PyObject* argument : arguments) {
    if (!THPVariable_Check(argument)) {
      is_tensor.push_back(false);
      requires_grad.push_back(false);
      continue;
    }
    const at::Tensor& tensor = THPVariable_Unpack(argument);
    const bool needs_grad = tensor.requires_grad();
    tensors.push_back(&tensor);
    is_tensor.push_back(true);
    requires_grad.push_back(needs_grad);
    any_requires_grad |= needs_grad;
    has_tangent |= tensor._fw_grad(/*level=*/0).defined();
  }
  executable = any_requires_grad && at::GradMode::is_enabled();
}

bool Inputs::contains(const at::Tensor& tensor) const {
  for (const at::Tensor* input : tensors) {
    if (input->is_same(tensor)) {
      return true;
    }
  }
  return false;
}

torch::autograd::edge_list Inputs::edges() const {
  torch::autograd::edge_list edges;
  edges.reserve(tensors.size());
  for (const at::Tensor* input : tensors) {
    edges.push_back(torch::autograd::impl::gradient_edge(*input));
  }
  return edges;
}

namespace {

bool is_functorch_wrapper(PyObject* object) {
  return THPVariable_Check(object) &&
      THPVariable_Unpack(object).key_set().has(
          c10::DispatchKey::FuncTorchGradWrapper);
}

} // namespace

Arguments unwrap_dead(Arguments arguments) {
  bool any = false;
  for (PyObject* argument : arguments) {
    any |= is_functorch_wrapper(argument);
  }
  if (!any) {
    return arguments;
  }
  Ref functorch = checked(PyImport_ImportModule("torch._C._functorch"));
  Ref unwrap = checked(PyObject_GetAttr(functorch.get(), names.unwrap_if_dead));
  Ref tuple = checked(PyTuple_New(arguments.size()));
  for (Py_ssize_t i = 0; i < arguments.size(); ++i) {
    Ref value = is_functorch_wrapper(arguments[i])
        ? checked(PyObject_CallOneArg(unwrap.get(), arguments[i]))
        : Ref::share(arguments[i]);
    PyTuple_SET_ITEM(tuple.get(), i, value.release());
  }
  return Arguments(std::move(tuple));
}

} // namespace torch_ext
