#include <function/garbage.h>

#include <torch/csrc/autograd/python_anomaly_mode.h>
#include <torch/csrc/autograd/python_hook.h>
#include <torch/csrc/autograd/python_variable.h>

namespace torch_ext {

namespace {

using torch::autograd::AnomalyMetadata;
using torch::autograd::Node;
using torch::autograd::PyAnomalyMetadata;
using torch::autograd::SavedVariable;

/// A private member of SavedVariable, by explicit instantiation.
at::Tensor& data_of(SavedVariable& saved);
template <at::Tensor SavedVariable::*data>
struct Access {
  friend at::Tensor& data_of(SavedVariable& saved) {
    return saved.*data;
  }
};
template struct Access<&SavedVariable::data_>;

/// A protected member of Node: metadata() would make what is not there.
struct NodeMembers : Node {
  using Node::anomaly_metadata_;
};

AnomalyMetadata* metadata_of(Node& node) {
  return (node.*&NodeMembers::anomaly_metadata_).get();
}

/// The Python object behind the tensor in `saved` where that lives by this
/// SavedVariable alone: then the reference that C++ holds on it is ours. Null
/// otherwise. Nobody else can get at such a tensor without the GIL, so that the
/// collector finds the same each time that it looks.
PyObject* owned_tensor(SavedVariable& saved) {
  const at::Tensor& data = data_of(saved);
  // The Python object's own, and the saved variable's.
  constexpr size_t kOnlySavedHere = 2;
  return !saved.has_hooks() && data.defined() &&
          data.use_count() == kOnlySavedHere
      ? data.unsafeGetTensorImpl()->pyobj_slot()->load_pyobj()
      : nullptr;
}

/// Whether the collector is shown what is saved. torch ends the process when it
/// clears a tensor that C++ still holds: finalize_state() has to come in between,
/// which it does once.
bool shows_saved(PyObject* object) {
  return Py_TYPE(object)->tp_finalize == finalize_state &&
      PyObject_GC_IsFinalized(object) == 0;
}

template <typename PyHook, typename Hooks>
int traverse_hooks(const Hooks& hooks, visitproc visit, void* arg) {
  for (const auto& hook : hooks) {
    if (auto* py_hook = dynamic_cast<PyHook*>(hook.get())) {
      Py_VISIT(py_hook->dict);
    }
  }
  return 0;
}

/// Visits the Python objects that the node owns. Whoever holds the node holds
/// the state as well, so that they are garbage exactly when the state is.
///
/// What the next edges lead to is left out: it is shared, and the engine takes
/// references to it without the GIL, between two looks of the collector.
int traverse_node(Node& node, visitproc visit, void* arg) {
  using namespace torch::autograd;
  if (int status = traverse_hooks<PyFunctionTensorPreHook>(
          node.tensor_pre_hooks(), visit, arg)) {
    return status;
  }
  if (int status =
          traverse_hooks<PyFunctionPreHook>(node.pre_hooks(), visit, arg)) {
    return status;
  }
  if (int status =
          traverse_hooks<PyFunctionPostHook>(node.post_hooks(), visit, arg)) {
    return status;
  }
  if (auto* metadata = dynamic_cast<PyAnomalyMetadata*>(metadata_of(node))) {
    Py_VISIT(metadata->dict());
  }
  return 0;
}

} // namespace

int traverse_state(PyObject* object, visitproc visit, void* arg) {
  State& state = as_state(object);
  THPFunction& base = state.base;
  Py_VISIT(base.needs_input_grad);
  Py_VISIT(base.to_save);
  Py_VISIT(base.non_differentiable);
  Py_VISIT(base.dirty_tensors);
  Py_VISIT(base.compiled_autograd_backward_state);
  Py_VISIT(base.saved_for_forward);
  Py_VISIT(state.output_grad_dtypes());
  for (const Ref& tensor : state.lent) {
    Py_VISIT(tensor.get());
  }
  if (shows_saved(object)) {
    for (SavedVariable& saved : base.saved_variables) {
      Py_VISIT(owned_tensor(saved));
    }
  }
  // Half-built objects are reached too.
  Node* node = compat::owned_node(base.cdata);
  return node == nullptr ? 0 : traverse_node(*node, visit, arg);
}

int clear_state(PyObject* object) {
  State& state = as_state(object);
  THPFunction& base = state.base;
  Py_CLEAR(base.needs_input_grad);
  Py_CLEAR(base.to_save);
  Py_CLEAR(base.non_differentiable);
  Py_CLEAR(base.dirty_tensors);
  Py_CLEAR(base.compiled_autograd_backward_state);
  Py_CLEAR(base.saved_for_forward);
  Py_CLEAR(state.output_grad_dtypes());
  if (!state.lent.empty()) {
    // Who still gets at the node learns that they are gone. Moved out first:
    // what a tensor's end runs may look at this state.
    state.set_freed();
    std::exchange(state.lent, {});
  }
  return 0;
}

void finalize_state(PyObject* object) {
  State& state = as_state(object);
  auto& saved = state.base.saved_variables;
  // By its last reference it goes without the collector.
  if (Py_REFCNT(object) == 1 || saved.empty()) {
    return;
  }
  try {
    state.lent.resize(saved.size());
    for (size_t i = 0; i < saved.size(); ++i) {
      if (PyObject* tensor = owned_tensor(saved[i])) {
        state.lent[i] = Ref::share(tensor);
        data_of(saved[i]).reset();
      }
    }
  } catch (const std::bad_alloc&) {
    // Let go of all the same. The exception that is set is the caller's.
    PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
    PyErr_Fetch(&type, &value, &traceback);
    state.set_freed();
    std::exchange(saved, {});
    PyErr_NoMemory();
    PyErr_WriteUnraisable(object);
    PyErr_Restore(type, value, traceback);
  }
}

std::vector<SavedVariable>& State::saved_variables() {
  auto& saved = base.saved_variables;
  std::vector<Ref> tensors = std::exchange(lent, {});
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i]) {
      data_of(saved[i]) = THPVariable_Unpack(tensors[i].get());
    }
  }
  return saved;
}

} // namespace torch_ext
