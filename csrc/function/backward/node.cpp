// SPDX-License-Identifier: BSD-3-Clause
// PyNode: the graph node of a custom Function, and its way through backward.
#include <function/backward/user_backward.h>
#include <function/ctx/ctx.h>
#include <function/ctx/saved.h>
#include <function/ctx/type.h>
#include <notes/timed_calls.h>
#include <python/call.h>
#include <python/error.h>
#include <python/gil.h>
#include <python/names.h>
#include <python/tensor.h>
#include <python/tuple.h>

// torch's own, defined a second time: docs/architecture.md says why.
namespace torch::autograd {

namespace {

using torch_ext::checked;
using torch_ext::Ctx;
using torch_ext::Flags;
using torch_ext::Gil;
using torch_ext::names;
using torch_ext::NoGil;
using torch_ext::Ref;

/// The gradients that the engine hands over, as Python objects.
using Gradients = c10::SmallVector<Ref, 8>;

at::Tensor zeros(const VariableInfo& info, at::OptionalDeviceGuard& device) {
  NoGil no_gil;
  return info.zeros(device);
}

at::Tensor zeros(const InputMetadata& metadata) {
  NoGil no_gil;
  return metadata.was_default_constructed() ? at::Tensor()
                                            : metadata.zeros_like();
}

/// The i-th gradient as backward gets it. A missing one becomes zeros, or None
/// if ctx doesn't materialize it.
///
/// There are two records of what an output was like: ctx's infos, which torch
/// makes zeros from, and the node's own metadata. If the call failed after its
/// outputs had got this node as their history, there are no infos; forward may
/// have kept such an output, and backward may come here from it.
Ref gradient_object(
    const PyNode& node,
    Ctx& ctx,
    size_t i,
    at::Tensor&& gradient,
    at::OptionalDeviceGuard& device) {
  const THPFunction& base = ctx.base;
  const bool as_it_is = gradient.defined() || !base.materialize_grads ||
      (node.input_metadata(i).was_default_constructed() &&
       !base.materialize_non_diff_grads);
  if (as_it_is) {
    return checked(THPVariable_Wrap(std::move(gradient)));
  }
  const auto& infos = ctx.output_infos();
  return checked(THPVariable_Wrap(
      i < infos.size() ? zeros(infos[i], device)
                       : zeros(node.input_metadata(i))));
}

/// The results of backward as a tuple with one for each of forward's arguments.
/// Further results are allowed if all are None, and are dropped.
Ref check_count(const PyNode& node, Ref result, size_t expected) {
  result = torch_ext::as_tuple(std::move(result));
  auto count = static_cast<size_t>(PyTuple_GET_SIZE(result.get()));
  if (count > expected) {
    bool only_none = true;
    for (size_t i = expected; i < count; ++i) {
      only_none &=
          Py_IsNone(PyTuple_GET_ITEM(result.get(), static_cast<Py_ssize_t>(i)));
    }
    if (only_none) {
      return checked(
          PyTuple_GetSlice(result.get(), 0, static_cast<Py_ssize_t>(expected)));
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

/// `results`, a tuple with one for each of forward's arguments, as the engine
/// takes them: those for its tensors.
variable_list checked_gradients(
    const PyNode& node,
    const PyObject* results,
    const Flags& is_tensor) {
  variable_list gradients;
  gradients.reserve(is_tensor.size());
  const Py_ssize_t count = PyTuple_GET_SIZE(results);
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* result = PyTuple_GET_ITEM(results, i);
    if (!is_tensor[static_cast<size_t>(i)]) {
      TORCH_CHECK(
          Py_IsNone(result),
          "function ",
          node.name(),
          " returned a gradient different than None at position ",
          i + 1,
          ", but the corresponding forward input was not a Variable");
    } else if (Py_IsNone(result)) {
      gradients.emplace_back();
    } else {
      TORCH_CHECK(
          torch_ext::is_real_tensor(result),
          "expected Variable or None (got ",
          Py_TYPE(result)->tp_name,
          ")");
      gradients.push_back(THPVariable_Unpack(result));
    }
  }
  return gradients;
}

/// What backward returned, as the engine takes it.
variable_list to_variables(
    const PyNode& node,
    Ref result,
    const Flags& is_tensor) {
  if (is_tensor.size() == 1 && is_tensor[0] &&
      torch_ext::has_tensor_type(result.get())) {
    return {THPVariable_Unpack(result.get())};
  }
  result = check_count(node, std::move(result), is_tensor.size());
  return checked_gradients(node, result.get(), is_tensor);
}

/// callable(object, *gradients), or callable(*gradients) if it doesn't take
/// `object` itself.
Ref call_with(
    PyObject* callable,
    bool takes_self,
    PyObject* object,
    const Gradients& gradients) {
  torch_ext::CallArguments arguments;
  if (takes_self) {
    arguments.add(object);
  }
  for (const Ref& gradient : gradients) {
    arguments.add(gradient.get());
  }
  return arguments.call(callable);
}

/// object.<name>(*gradients)
Ref call_method(PyObject* object, PyObject* name, const Gradients& gradients) {
  const auto method = torch_ext::compat::get_method(object, name);
  return call_with(method.function.get(), method.takes_self, object, gradients);
}

/// grad_fn.apply(*gradients).
Ref call_apply(PyObject* object, const Gradients& gradients) {
  if (Ref backward = torch_ext::find_user_backward(object)) {
    return call_with(backward.get(), /*takes_self=*/true, object, gradients);
  }
  return call_method(object, names.apply, gradients);
}

/// grad_fn.apply_boxed(gradients): one list, which backward may empty as it
/// goes. So the gradients are taken out of `gradients`.
Ref call_boxed(PyObject* object, Gradients& gradients) {
  Ref list = checked(PyList_New(static_cast<Py_ssize_t>(gradients.size())));
  for (size_t i = 0; i < gradients.size(); ++i) {
    PyList_SET_ITEM(
        list.get(), static_cast<Py_ssize_t>(i), gradients[i].release());
  }
  Gradients boxed;
  boxed.push_back(std::move(list));
  return call_method(object, names.apply_boxed, boxed);
}

} // namespace

variable_list PyNode::apply(variable_list&& inputs) {
  Gil gil;
  at::OptionalDeviceGuard device;
  return torch_ext::persisting([&] {
    torch_ext::TimedCall timed;
    Ctx& ctx = *torch_ext::ctx_of(*this);
    Ref self = Ref::share(ctx.object());
    Gradients gradients;
    for (size_t i = 0; i < inputs.size(); ++i) {
      gradients.push_back(
          gradient_object(*this, ctx, i, std::move(inputs[i]), device));
    }
    // From here on only the Python objects hold the gradients.
    inputs.clear();
    Ref result = [&] {
      const torch_ext::TimedCall::UserCode user(timed);
      return ctx.boxed_grads_call() ? call_boxed(self.get(), gradients)
                                    : call_apply(self.get(), gradients);
    }();
    gradients.clear();
    variable_list returned =
        to_variables(*this, std::move(result), ctx.are_tensors());
    if (timed) {
      timed.end_backward(self.get());
    }
    return returned;
  });
}

variable_list PyNode::to_variable_list(
    const PyObject* results,
    const std::vector<bool>& is_tensor) {
  return checked_gradients(*this, results, Flags(is_tensor));
}

PyObject* PyNode::to_py_args(
    const variable_list& inputs,
    at::OptionalDeviceGuard* device) {
  Ctx& ctx = *torch_ext::ctx_of(*this);
  return torch_ext::tuple_of(
             inputs.size(),
             [&](size_t i) {
               return gradient_object(
                   *this, ctx, i, at::Tensor(inputs[i]), *device);
             })
      .release();
}

void PyNode::release_variables() {
  // Also called by the node's destructor, when the ctx may be gone already, or
  // Python: there is nothing to release then.
  Ctx* ctx = torch_ext::ctx_of(*this);
  if (ctx == nullptr || !Py_IsInitialized()) {
    return;
  }
  // The flag first, so that another thread's backward never finds the tensors
  // gone and the flag unset.
  ctx->set_freed();
  // The engine calls this for every node, and most have saved nothing: they do
  // without the GIL.
  if (ctx->has_saved()) {
    Gil gil;
    torch_ext::drop_saved(*ctx);
  }
}

std::string PyNode::name() const {
  Gil gil;
  // The class that the user can see, and may have given another name.
  return torch_ext::made_from(Py_TYPE(torch_ext::compat::ctx_of(*this)))
      ->tp_name;
}

bool PyNode::is_traceable() {
  Gil gil;
  return torch_ext::persisting([&] {
    Ref cls = checked(
        PyObject_GetAttr(torch_ext::compat::ctx_of(*this), names._forward_cls));
    Ref traceable = checked(PyObject_GetAttr(cls.get(), names.is_traceable));
    return traceable.get() == Py_True;
  });
}

} // namespace torch::autograd
