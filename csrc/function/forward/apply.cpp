#include <function/apply.h>

#include <function/apply_callable.h>
#include <function/arguments.h>
#include <function/class_record.h>
#include <function/inputs.h>
#include <function/modes.h>
#include <function/outputs.h>
#include <function/profile.h>
#include <function/saved.h>
#include <function/state.h>
#include <python/error.h>
#include <python/names.h>
#include <tracer/record.h>

#include <ATen/core/grad_mode.h>

namespace torch_ext {

namespace {

bool is_function_class(PyObject* object) {
  return PyType_Check(object) &&
      PyType_IsSubtype(
             reinterpret_cast<PyTypeObject*>(object), torch_function_class());
}

/// Whether the call is torch's own to handle: a transform of torch.func is at
/// work, or this is no Function class, which is an error.
bool is_for_torch(PyObject* cls) {
  return functorch_active() || !is_function_class(cls);
}

/// The class has a name of its own in the signature of an apply() in Python.
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

/// Vectorcalls `callable` with `first` before the arguments, of which the last
/// are those that `keywords`, a tuple or null, has the names of.
Ref call_with(
    PyObject* callable,
    PyObject* first,
    PyObject* const* begin,
    PyObject* const* end,
    PyObject* keywords = nullptr) {
  // One slot in front for the callee's own use.
  c10::SmallVector<PyObject*, 18> stack{nullptr, first};
  stack.append(begin, end);
  const size_t named =
      keywords == nullptr ? 0 : static_cast<size_t>(PyTuple_GET_SIZE(keywords));
  return checked(PyObject_Vectorcall(
      callable,
      stack.data() + 1,
      (stack.size() - 1 - named) | PY_VECTORCALL_ARGUMENTS_OFFSET,
      keywords));
}

Ref call_with(PyObject* callable, PyObject* first, const Arguments& arguments) {
  return call_with(callable, first, arguments.begin(), arguments.end());
}

/// Calls torch's own apply, which may need the keyword arguments put in place.
Ref call_torch(
    PyObject* cls,
    PyObject* const* args,
    Py_ssize_t count,
    PyObject* keywords) {
  if (!compat::kApplyTakesKeywords && keywords != nullptr &&
      is_function_class(cls)) {
    const ClassRecord record = read_class(cls);
    if (record.takes_keywords) {
      return call_with(
          torch_apply(), cls, bind_arguments(record, args, count, keywords));
    }
  }
  const Py_ssize_t named = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  return call_with(torch_apply(), cls, args, args + count + named, keywords);
}

/// Runs forward, and setup_context where that is apart. Returns forward's
/// result.
Ref call_forward(
    PyObject* cls,
    const ClassRecord& record,
    State& state,
    const Arguments& arguments) {
  at::AutoGradMode no_grad(false);
  at::AutoFwGradMode no_tangents(false);
  if (!record.separate_setup) {
    return call_with(record.forward.get(), state.object(), arguments);
  }
  Ref output = checked(PyObject_Vectorcall(
      record.forward.get(),
      arguments.begin(),
      static_cast<size_t>(arguments.size()),
      nullptr));
  // Looked up only now: forward may have changed its class.
  Ref setup_context = checked(PyObject_GetAttr(cls, names.setup_context));
  Ref inputs = arguments.tuple();
  PyObject* setup_arguments[] = {state.object(), inputs.get(), output.get()};
  checked(PyObject_Vectorcall(setup_context.get(), setup_arguments, 3, nullptr));
  return output;
}

/// Tells the state (ctx) of the call what it is for.
void prepare_state(
    State& state,
    const ClassRecord& record,
    Inputs& inputs,
    torch::autograd::edge_list edges) {
  THPFunction& base = state.base;
  base.clear_saved_tensors_on_access = record.clear_saved_tensors_on_access;
  state.boxed_grads_call() = record.boxed_grads_call;
  state.node().set_next_edges(std::move(edges));

  const auto& required = inputs.requires_grad;
  if (required.size() <= 64) {
    state.input_count = static_cast<Py_ssize_t>(required.size());
    state.needs_input_grad = 0;
    for (size_t i = 0; i < required.size(); ++i) {
      state.needs_input_grad |= static_cast<uint64_t>(required[i]) << i;
    }
  } else {
    Ref tuple = checked(PyTuple_New(static_cast<Py_ssize_t>(required.size())));
    for (size_t i = 0; i < required.size(); ++i) {
      PyTuple_SET_ITEM(
          tuple.get(),
          static_cast<Py_ssize_t>(i),
          Py_NewRef(required[i] ? Py_True : Py_False));
    }
    base.needs_input_grad = tuple.release();
  }
  base.is_variable_input = std::move(inputs.is_tensor);
}

/// Makes what forward returned the outputs of the node: apply()'s result.
Ref finish(
    PyTypeObject* cls,
    State& state,
    const ClassRecord& record,
    const Inputs& inputs,
    const std::optional<Recording>& recording,
    Ref result) {
  compat::CriticalSection of_ctx(state.object());
  const bool single = !PyTuple_Check(result.get());
  result = as_tuple(std::move(result));
  THPFunction& base = state.base;
  state.node().clear_input_metadata();
  if (inputs.executable) {
    state.packed_inputs.begin(base.input_info);
    for (const at::Tensor* tensor : inputs.tensors) {
      state.packed_inputs.add(base.input_info, *tensor);
    }
  }
  const TensorsToSave to_save(state, inputs.executable);
  const bool in_place = base.dirty_tensors != nullptr;
  auto [outputs, attached] = wrap_outputs(
      state, inputs, result.get(), to_save, record.separate_setup);
  if (recording) {
    record_outputs(*recording, cls, outputs.get(), in_place, single);
  }
  if (inputs.executable) {
    to_save.save(state, outputs.get());
    compat::node_created(attached);
  } else {
    state.maybe_saved.store(false, std::memory_order_release);
  }
  Ref::steal(std::exchange(base.saved_for_forward, nullptr));
  return single ? Ref::share(PyTuple_GET_ITEM(outputs.get(), 0))
                : std::move(outputs);
}

/// The call proper, under no functorch transform.
Ref call(PyTypeObject* cls, const ClassRecord& record, const Arguments& arguments) {
  ObservedCall observed(cls, arguments);
  check_single_level_allowed();
  Inputs inputs(arguments);
  // Before the node: the history of a view that changed in place is made only
  // now, and is older.
  torch::autograd::edge_list edges;
  if (inputs.executable) {
    edges = inputs.edges();
  }
  Ref ctx = checked(
      new_state(reinterpret_cast<PyTypeObject*>(record.state_type.get())));
  const compat::NodeDuringCall node(ctx.get());
  State& state = as_state(ctx.get());
  prepare_state(state, record, inputs, std::move(edges));
  auto* class_object = reinterpret_cast<PyObject*>(cls);
  if (!record.has_flags) {
    require_flags(class_object);
  }
  std::optional<Recording> recording;
  if (tracing()) {
    recording = record_call(
        class_object, arguments, state.base.is_variable_input, inputs);
  }
  Ref result = call_forward(class_object, record, state, arguments);
  return finish(cls, state, record, inputs, recording, std::move(result));
}

} // namespace

PyObject* apply(
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
  const ClassRecord record = read_class(cls);
  const Arguments arguments =
      unwrap_dead(bind_arguments(record, args, count, keywords));
  return call(reinterpret_cast<PyTypeObject*>(cls), record, arguments).release();
  END_HANDLE_TH_ERRORS
}

} // namespace torch_ext
