// SPDX-License-Identifier: BSD-3-Clause
#include <function/forward/apply.h>

#include <function/ctx/ctx.h>
#include <function/ctx/saved.h>
#include <function/forward/arguments.h>
#include <function/forward/class_record.h>
#include <function/forward/inputs.h>
#include <function/forward/modes.h>
#include <function/forward/no_grad.h>
#include <function/forward/outputs.h>
#include <function/forward/record_function.h>
#include <function/torch_own.h>
#include <notes/seen_calls.h>
#include <notes/timed_calls.h>
#include <python/call.h>
#include <python/error.h>
#include <python/names.h>
#include <python/tensor.h>
#include <python/tuple.h>
#include <tracer/record.h>

#include <ATen/SequenceNumber.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/forward_grad.h>

#include <cstdint>
#include <optional>
#include <utility>

namespace torch_ext {

namespace {

bool is_function_class(PyObject* object) {
  return PyType_Check(object) &&
      PyType_IsSubtype(
             reinterpret_cast<PyTypeObject*>(object),
             torch_own.function.as_type());
}

/// Whether torch's own apply is to handle the call: a transform of torch.func
/// is active, or this is no Function class, which is torch's error to raise.
bool is_for_torch(PyObject* cls) {
  return functorch_active() || !is_function_class(cls);
}

/// Raises the error of an apply() in Python, whose first parameter is named
/// cls, for a keyword argument of that name.
void refuse_cls(PyObject* keywords) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(keywords); ++i) {
    if (PyUnicode_CompareWithASCIIString(
            PyTuple_GET_ITEM(keywords, i), "cls") == 0) {
      raise(
          PyExc_TypeError,
          "Function.apply() got multiple values for argument 'cls'");
    }
  }
}

/// callable(first, *arguments)
Ref call_with(PyObject* callable, PyObject* first, const Arguments& arguments) {
  CallArguments all;
  all.add(first);
  all.add(arguments.begin(), arguments.end());
  return all.call(callable);
}

/// Calls torch's own apply.
Ref call_torch(
    PyObject* cls,
    PyObject* const* args,
    Py_ssize_t count,
    PyObject* keywords) {
  const Py_ssize_t named = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  for (PyObject* const* arg = args; arg != args + count + named; ++arg) {
    // Throws for what only claims to be a tensor: torch would crash.
    is_real_tensor(*arg);
  }
  if (!compat::kApplyTakesKeywords && keywords != nullptr &&
      is_function_class(cls)) {
    const ClassRecord record = read_class(cls);
    if (record.takes_keywords) {
      return call_with(
          torch_own.apply, cls, bind_arguments(record, args, count, keywords));
    }
  }
  CallArguments all;
  all.add(cls);
  all.add(args, args + count + named);
  return all.call(torch_own.apply, keywords);
}

/// Runs forward, and setup_context if the class has one. Returns what forward
/// returned.
Ref call_forward(
    PyObject* cls,
    const ClassRecord& record,
    Ctx& ctx,
    const Arguments& arguments,
    TimedCall& timed) {
  const NoGrad no_grad;
  if (!record.separate_setup) {
    const TimedCall::UserCode user(timed);
    return call_with(record.forward.get(), ctx.object(), arguments);
  }
  Ref output = [&] {
    const TimedCall::UserCode user(timed);
    return checked(PyObject_Vectorcall(
        record.forward.get(),
        arguments.begin(),
        static_cast<size_t>(arguments.size()),
        nullptr));
  }();
  // Looked up only now: forward may have changed its class.
  Ref setup_context = checked(PyObject_GetAttr(cls, names.setup_context));
  Ref inputs = arguments.tuple();
  CallArguments of_setup;
  of_setup.add(ctx.object());
  of_setup.add(inputs.get());
  of_setup.add(output.get());
  const TimedCall::UserCode user(timed);
  of_setup.call(setup_context.get());
  return output;
}

/// Notes in ctx what backward has to know of the call.
void prepare_ctx(
    Ctx& ctx,
    const ClassRecord& record,
    const Inputs& inputs,
    torch::autograd::edge_list edges) {
  ctx.base.clear_saved_tensors_on_access = record.clear_saved_tensors_on_access;
  ctx.boxed_grads_call() = record.boxed_grads_call;
  ctx.node().set_next_edges(std::move(edges));
  note_needs_input_grad(ctx, inputs.requires_grad);
  note_tensors(ctx, inputs.is_tensor);
}

/// Makes what forward returned the outputs of the node. Returns apply()'s
/// result.
Ref finish(
    PyTypeObject* cls,
    Ctx& ctx,
    const ClassRecord& record,
    const Inputs& inputs,
    const std::optional<Recording>& recording,
    Ref result,
    TimedCall& timed) {
  compat::CriticalSection of_ctx(ctx.object());
  const bool single = !PyTuple_Check(result.get());
  PyObject* const only = result.get();
  const c10::ArrayRef<PyObject*> raw =
      single ? c10::ArrayRef<PyObject*>(only) : items_of(only);
  THPFunction& base = ctx.base;
  ctx.node().clear_input_metadata();
  if (inputs.executable) {
    ctx.packed_inputs.begin(base.input_info, inputs.tensors.size());
    for (const at::Tensor* tensor : inputs.tensors) {
      ctx.packed_inputs.add(base.input_info, *tensor);
    }
  }
  const TensorsToSave to_save(ctx, inputs.executable);
  const bool in_place = base.dirty_tensors != nullptr;
  auto [outputs, attached] =
      wrap_outputs(ctx, inputs, raw, to_save, record.separate_setup);
  if (recording) {
    record_outputs(*recording, cls, outputs, in_place, single);
  }
  if (inputs.executable) {
    to_save.save(ctx, outputs);
    compat::node_created(attached);
    if (timed) {
      timed.note_saved(to_save.begin(), to_save.end());
    }
  } else {
    ctx.maybe_saved.store(false, std::memory_order_release);
  }
  Ref::steal(std::exchange(base.saved_for_forward, nullptr));
  if (single) {
    return std::move(outputs[0]);
  }
  return tuple_of(outputs.size(), [&outputs = outputs](size_t i) {
    return std::move(outputs[i]);
  });
}

/// The call proper, under no transform of torch.func.
Ref call(
    PyTypeObject* cls,
    const ClassRecord& record,
    const Arguments& arguments,
    const Inputs& inputs,
    TimedCall& timed) {
  // As torch does: observers get the number from before the edges.
  const auto sequence_nr =
      static_cast<std::int64_t>(at::sequence_number::peek());
  // Before the node and before observers hear of the call: this may make the
  // history of a view that was changed in place, which is older than the node,
  // has to have a smaller number, and is no part of the call.
  torch::autograd::edge_list edges;
  if (inputs.executable) {
    edges = inputs.edges();
  }
  ObservedCall observed(cls, arguments, sequence_nr);
  check_single_level_allowed();
  Ref object = new_ctx(record.ctx_type.as_type());
  const compat::NodeDuringCall node(object.get());
  Ctx& ctx = as_ctx(object.get());
  prepare_ctx(ctx, record, inputs, std::move(edges));
  auto* class_object = reinterpret_cast<PyObject*>(cls);
  if (!record.has_flags) {
    require_flags(class_object);
  }
  std::optional<Recording> recording;
  if (tracing()) {
    recording = record_call(
        class_object, arguments.items(), inputs.is_tensor, inputs.tensors);
  }
  Ref result = call_forward(class_object, record, ctx, arguments, timed);
  return finish(cls, ctx, record, inputs, recording, std::move(result), timed);
}

} // namespace

PyObject* py_apply(
    PyObject* cls,
    PyObject* const* args,
    Py_ssize_t count,
    PyObject* keywords) {
  HANDLE_TH_ERRORS
  if (is_for_torch(cls)) {
    return call_torch(cls, args, count, keywords).release();
  }
  if (!compat::kApplyIsInC && keywords != nullptr) {
    refuse_cls(keywords);
  }
  TimedCall timed;
  const ClassRecord record = read_class(cls);
  Arguments arguments = bind_arguments(record, args, count, keywords);
  std::optional<Inputs> inputs(arguments);
  if (inputs->has_wrapper) {
    arguments = unwrap_dead(arguments);
    inputs.emplace(arguments);
  }
  Ref result = call(
      reinterpret_cast<PyTypeObject*>(cls), record, arguments, *inputs, timed);
  if (timed) {
    timed.end_forward(cls, arguments.begin(), arguments.size(), result.get());
  }
  if (calls_are_seen()) {
    see_call(arguments.begin(), arguments.size(), result.get());
  }
  return result.release();
  END_HANDLE_TH_ERRORS
}

} // namespace torch_ext
