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

#include <ATen/core/grad_mode.h>

namespace torch_ext {

namespace {

/// Whether the call is torch's own to handle: a transform of torch.func or the
/// tracer is at work, or there is no Function class to call, which is an error.
bool is_for_torch(PyObject* const* args, Py_ssize_t count) {
  return count == 0 || functorch_active() || tracing() ||
      !PyType_Check(args[0]) ||
      !PyType_IsSubtype(
             reinterpret_cast<PyTypeObject*>(args[0]), torch_function_class());
}

/// Vectorcalls `callable` with `first` before the arguments.
Ref call_with(PyObject* callable, PyObject* first, const Arguments& arguments) {
  // One slot in front for the callee's own use.
  c10::SmallVector<PyObject*, 18> stack;
  stack.reserve(static_cast<size_t>(arguments.size()) + 2);
  stack.push_back(nullptr);
  stack.push_back(first);
  stack.append(arguments.begin(), arguments.end());
  return checked(PyObject_Vectorcall(
      callable,
      stack.data() + 1,
      (stack.size() - 1) | PY_VECTORCALL_ARGUMENTS_OFFSET,
      nullptr));
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
void prepare_state(State& state, const ClassRecord& record, Inputs& inputs) {
  THPFunction& base = state.base;
  base.clear_saved_tensors_on_access = record.clear_saved_tensors_on_access;
  base.boxed_grads_call = record.boxed_grads_call;
  if (inputs.executable) {
    state.node().set_next_edges(inputs.edges());
  }

  const std::vector<bool>& required = inputs.requires_grad;
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
    State& state,
    const ClassRecord& record,
    const Inputs& inputs,
    Ref result) {
  const bool single = !PyTuple_Check(result.get());
  if (single) {
    result = checked(PyTuple_Pack(1, result.get()));
  }
  THPFunction& base = state.base;
  state.node().clear_input_metadata();
  if (inputs.executable) {
    base.input_info.clear();
    base.input_info.reserve(inputs.tensors.size());
    for (const at::Tensor* tensor : inputs.tensors) {
      base.input_info.emplace_back(*tensor);
    }
  }
  const TensorsToSave to_save(state, inputs.executable);
  Ref outputs = wrap_outputs(
      state, inputs, result.get(), to_save, record.separate_setup);
  if (inputs.executable) {
    to_save.save(state, outputs.get());
  } else {
    state.maybe_saved.store(false, std::memory_order_release);
  }
  Ref::steal(std::exchange(base.saved_for_forward, nullptr));
  return single ? Ref::share(PyTuple_GET_ITEM(outputs.get(), 0))
                : std::move(outputs);
}

/// The call proper, under no functorch transform and no tracer.
Ref call(PyTypeObject* cls, const ClassRecord& record, const Arguments& arguments) {
  ObservedCall observed(cls, arguments);
  check_single_level_allowed();
  Inputs inputs(arguments);
  Ref ctx = checked(
      new_state(reinterpret_cast<PyTypeObject*>(record.state_type.get())));
  State& state = as_state(ctx.get());
  prepare_state(state, record, inputs);
  Ref result = call_forward(
      reinterpret_cast<PyObject*>(cls), record, state, arguments);
  return finish(state, record, inputs, std::move(result));
}

} // namespace

PyObject* apply(
    PyObject* const* args,
    Py_ssize_t count,
    PyObject* keywords) {
  HANDLE_TH_ERRORS
  if (is_for_torch(args, count)) {
    return PyObject_Vectorcall(
        torch_apply(), args, static_cast<size_t>(count), keywords);
  }
  PyObject* cls = args[0];
  const ClassRecord record = read_class(cls);
  const Arguments arguments =
      unwrap_dead(bind_arguments(record, args + 1, count - 1, keywords));
  return call(reinterpret_cast<PyTypeObject*>(cls), record, arguments).release();
  END_HANDLE_TH_ERRORS
}

} // namespace torch_ext
