// PyNode: the graph node of a custom Function, and its way through backward.
#include <function/saved.h>
#include <function/state.h>
#include <function/user_backward.h>
#include <python/error.h>
#include <python/gil.h>
#include <python/names.h>

#include <torch/csrc/autograd/python_variable.h>

namespace torch::autograd {

namespace {

using torch_ext::checked;
using torch_ext::Gil;
using torch_ext::names;
using torch_ext::NoGil;
using torch_ext::Ref;
using torch_ext::State;

/// The gradients that the engine hands over, as Python objects, behind ctx.
using CallStack = c10::SmallVector<Ref, 8>;

at::Tensor zeros(const VariableInfo& info, at::OptionalDeviceGuard& device) {
  NoGil no_gil;
  return info.zeros(device);
}

at::Tensor zeros(const torch::autograd::InputMetadata& metadata) {
  NoGil no_gil;
  return metadata.was_default_constructed() ? at::Tensor()
                                            : metadata.zeros_like();
}

/// One gradient as backward gets it: a missing one becomes zeros or None.
Ref gradient_object(
    const PyNode& node,
    State& state,
    size_t i,
    at::Tensor&& gradient,
    at::OptionalDeviceGuard& device) {
  const THPFunction& base = state.base;
  const bool as_it_is = gradient.defined() || !base.materialize_grads ||
      (node.input_metadata(i).was_default_constructed() &&
       !base.materialize_non_diff_grads);
  if (as_it_is) {
    return checked(THPVariable_Wrap(std::move(gradient)));
  }
  // A call that failed once its outputs had their history, which one that
  // forward has captured keeps, has left no infos behind.
  const auto& infos = state.output_infos();
  return checked(THPVariable_Wrap(
      i < infos.size() ? zeros(infos[i], device)
                       : zeros(node.input_metadata(i))));
}

/// The results of backward, one for each of forward's arguments, as a tuple.
/// Trailing Nones beyond them are dropped.
Ref check_count(const PyNode& node, Ref result, size_t expected) {
  result = torch_ext::as_tuple(std::move(result));
  auto count = static_cast<size_t>(PyTuple_GET_SIZE(result.get()));
  if (count > expected) {
    bool only_none = true;
    for (size_t i = expected; i < count; ++i) {
      only_none &= Py_IsNone(
          PyTuple_GET_ITEM(result.get(), static_cast<Py_ssize_t>(i)));
    }
    if (only_none) {
      return checked(PyTuple_GetSlice(
          result.get(), 0, static_cast<Py_ssize_t>(expected)));
    }
  }
  TORCH_CHECK(
      count == expected,
      "function ",
      node.name(),
      " returned an incorrect number of gradients (expected ",
      expected,
      ", got ",
      count,
      ")");
  return result;
}

/// callable(object, *gradients), or callable(*gradients) for a bound method.
Ref call_with(
    PyObject* callable,
    PyObject* object,
    const CallStack& gradients,
    bool bound) {
  c10::SmallVector<PyObject*, 10> stack{nullptr, object};
  for (const Ref& gradient : gradients) {
    stack.push_back(gradient.get());
  }
  // The slot before the first argument is the callee's to use.
  const size_t skip = bound ? 2 : 1;
  return checked(PyObject_Vectorcall(
      callable,
      stack.data() + skip,
      (stack.size() - skip) | PY_VECTORCALL_ARGUMENTS_OFFSET,
      nullptr));
}

/// Calls the attribute `name` of the state with the gradients.
Ref call_method(PyObject* object, PyObject* name, const CallStack& gradients) {
  PyObject* method = nullptr;
  const bool unbound = torch_ext::compat::get_method(object, name, &method);
  Ref callable = checked(method);
  return call_with(callable.get(), object, gradients, !unbound);
}

/// grad_fn.apply(*gradients).
Ref call_apply(PyObject* object, const CallStack& gradients) {
  if (Ref backward = torch_ext::find_user_backward(object)) {
    return call_with(backward.get(), object, gradients, /*bound=*/false);
  }
  return call_method(object, names.apply, gradients);
}

/// The gradients in one list that backward may empty as it goes.
Ref call_boxed(PyObject* object, CallStack&& gradients) {
  Ref list = checked(PyList_New(static_cast<Py_ssize_t>(gradients.size())));
  for (size_t i = 0; i < gradients.size(); ++i) {
    PyList_SET_ITEM(
        list.get(), static_cast<Py_ssize_t>(i), gradients[i].release());
  }
  CallStack boxed;
  boxed.push_back(std::move(list));
  return call_method(object, names.apply_boxed, boxed);
}

} // namespace

variable_list PyNode::apply(variable_list&& inputs) {
  Gil gil;
  at::OptionalDeviceGuard device;
  return torch_ext::persisting([&] {
    State& state = *torch_ext::state_of(*this);
    Ref self = Ref::share(state.object());
    CallStack gradients;
    for (size_t i = 0; i < inputs.size(); ++i) {
      gradients.push_back(
          gradient_object(*this, state, i, std::move(inputs[i]), device));
    }
    // From here on the Python objects alone hold the gradients.
    inputs.clear();
    Ref result = state.boxed_grads_call()
        ? call_boxed(self.get(), std::move(gradients))
        : call_apply(self.get(), gradients);
    gradients.clear();
    const std::vector<bool>& is_tensor = state.base.is_variable_input;
    result = check_count(*this, std::move(result), is_tensor.size());
    return to_variable_list(result.get(), is_tensor);
  });
}

variable_list PyNode::to_variable_list(
    const PyObject* results,
    const std::vector<bool>& is_tensor) {
  variable_list gradients;
  gradients.reserve(is_tensor.size());
  const Py_ssize_t count = PyTuple_GET_SIZE(results);
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* result = PyTuple_GET_ITEM(results, i);
    if (!is_tensor[static_cast<size_t>(i)]) {
      TORCH_CHECK(
          Py_IsNone(result),
          "function ",
          name(),
          " returned a gradient different than None at position ",
          i + 1,
          ", but the corresponding forward input was not a Variable");
    } else if (Py_IsNone(result)) {
      gradients.emplace_back();
    } else {
      TORCH_CHECK(
          THPVariable_Check(result),
          "expected Variable or None (got ",
          Py_TYPE(result)->tp_name,
          ")");
      gradients.push_back(THPVariable_Unpack(result));
    }
  }
  return gradients;
}

PyObject* PyNode::to_py_args(
    const variable_list& inputs,
    at::OptionalDeviceGuard* device) {
  State& state = *torch_ext::state_of(*this);
  Ref arguments = checked(PyTuple_New(static_cast<Py_ssize_t>(inputs.size())));
  for (size_t i = 0; i < inputs.size(); ++i) {
    Ref gradient =
        gradient_object(*this, state, i, at::Tensor(inputs[i]), *device);
    PyTuple_SET_ITEM(
        arguments.get(), static_cast<Py_ssize_t>(i), gradient.release());
  }
  return arguments.release();
}

void PyNode::release_variables() {
  // Runs at the node's end too, when the state is gone, or Python itself: then
  // what was saved is left where it is.
  State* state = torch_ext::state_of(*this);
  if (state == nullptr || !Py_IsInitialized()) {
    return;
  }
  // The engine calls this after every node; most have nothing that would take
  // the GIL to let go of.
  // The flag first: another thread's backward must not find nothing saved and
  // nothing freed.
  state->set_freed();
  if (state->has_saved()) {
    Gil gil;
    torch_ext::drop_saved(*state);
  }
}

std::string PyNode::name() const {
  Gil gil;
  return Py_TYPE(torch_ext::compat::ctx_of(*this))->tp_name;
}

bool PyNode::is_traceable() {
  Gil gil;
  return torch_ext::persisting([&] {
    Ref cls = checked(PyObject_GetAttr(torch_ext::compat::ctx_of(*this), names._forward_cls));
    Ref traceable = checked(PyObject_GetAttr(cls.get(), names.is_traceable));
    return traceable.get() == Py_True;
  });
}

} // namespace torch::autograd
