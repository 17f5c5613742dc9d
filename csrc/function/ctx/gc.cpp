// SPDX-License-Identifier: BSD-3-Clause
#include <function/ctx/gc.h>

#include <function/ctx/saved.h>
#include <function/ctx/sole_owner.h>
#include <hooks/hook_dict.h>
#include <python/error.h>
#include <python/names.h>

#include <torch/csrc/autograd/python_hook.h>
#include <torch/csrc/autograd/python_variable.h>

#include <atomic>
#include <new>
#include <string_view>
#include <utility>

namespace torch_ext {

namespace {

using torch::autograd::AnomalyMetadata;
using torch::autograd::Node;
using torch::autograd::SavedVariable;

/// The number of Python's oldest generation.
constexpr long kOldestGeneration = 2;

/// For a protected member of Node: metadata() would make the metadata if there
/// is none.
struct NodeMembers : Node {
  using Node::anomaly_metadata_;
};

const AnomalyMetadata* metadata_of(Node& node) {
  return (node.*&NodeMembers::anomaly_metadata_).get();
}

/// The Python object of the tensor in `saved`, borrowed, if this SavedVariable
/// alone keeps the tensor alive; null otherwise.
///
/// Invariant: the collector has to find the same each time it looks at the same
/// garbage. Nobody else can reach such a tensor without the GIL, so it does.
PyObject* owned_tensor(SavedVariable& saved) {
  const at::Tensor& data = data_of(saved);
  // The Python object's own, and the saved variable's.
  constexpr size_t kOnlySavedHere = 2;
  return !saved.has_hooks() && data.defined() &&
          data.use_count() == kOnlySavedHere
      ? data.unsafeGetTensorImpl()->pyobj_slot()->load_pyobj()
      : nullptr;
}

/// Whether the collector is shown the saved tensors. torch ends the process
/// when the collector clears a tensor that C++ still holds, so they may be
/// shown only if finalize_ctx() will run before anything is cleared. It runs
/// once at most.
bool shows_saved(PyObject* object) {
  return Py_TYPE(object)->tp_finalize == finalize_ctx &&
      PyObject_GC_IsFinalized(object) == 0;
}

/// Whether a full collection is running.
std::atomic<bool> collecting_all = compat::kFreeThreaded;

/// Python calls it when a collection starts and when it stops.
PyObject* note_collection(PyObject*, PyObject* arguments) {
  const char* phase = nullptr;
  PyObject* info = nullptr;
  if (!PyArg_ParseTuple(arguments, "sO!", &phase, &PyDict_Type, &info)) {
    return nullptr;
  }
  HANDLE_TH_ERRORS
  Ref generation = find_item(info, names.generation);
  // Free-threaded Python has no generations.
  collecting_all = compat::kFreeThreaded ||
      (std::string_view(phase) == "start" && generation &&
       PyLong_AsLong(generation.get()) == kOldestGeneration);
  if (PyErr_Occurred()) {
    return nullptr;
  }
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

PyMethodDef on_collection = {
    "torch_ext_note_collection",
    note_collection,
    METH_VARARGS,
    PyDoc_STR("Lets torch_ext know of full collections.")};

/// Whether the ctx is shown as what owns itself. Only in full collections:
/// others pass over what is older, such as the attributes of a ctx. Such an
/// object could still be found, by a weak reference say, and lead to the ctx
/// by way of C++, when the collector has taken the ctx apart.
bool shows_itself(PyObject* object, visitproc visit) {
  return collecting_all.load(std::memory_order_relaxed) && !is_search(visit) &&
      owns_itself(object);
}

/// Visits the Python objects that the node owns.
///
/// Invariant: whoever holds the node holds the ctx, so these objects are
/// garbage exactly when the ctx is. What the node's edges lead to is not
/// visited: the nodes there are shared, and the engine takes references to them
/// without the GIL, so that the collector might see them change while it
/// counts.
int traverse_node(Node& node, visitproc visit, void* arg) {
  using namespace torch::autograd;
  const auto visit_dict = [&](const auto& hook) -> int {
    Py_VISIT(hook.dict);
    return 0;
  };
  if (int status = each_python_hook<PyFunctionTensorPreHook>(
          node.tensor_pre_hooks(), visit_dict)) {
    return status;
  }
  if (int status =
          each_python_hook<PyFunctionPreHook>(node.pre_hooks(), visit_dict)) {
    return status;
  }
  if (int status =
          each_python_hook<PyFunctionPostHook>(node.post_hooks(), visit_dict)) {
    return status;
  }
  Py_VISIT(compat::dict_of(metadata_of(node)));
  return 0;
}

} // namespace

int traverse_ctx(PyObject* object, visitproc visit, void* arg) {
  Ctx& ctx = as_ctx(object);
  THPFunction& base = ctx.base;
  Py_VISIT(base.needs_input_grad);
  Py_VISIT(base.to_save);
  Py_VISIT(base.non_differentiable);
  Py_VISIT(base.dirty_tensors);
  Py_VISIT(base.compiled_autograd_backward_state);
  Py_VISIT(base.saved_for_forward);
  Py_VISIT(ctx.output_grad_dtypes());
  if (ctx.aside) {
    for (const Ref& tensor : ctx.aside->lent) {
      Py_VISIT(tensor.get());
    }
  }
  const bool shows_tensors = shows_saved(object);
  for (SavedVariable& saved : base.saved_variables) {
    if (const int status = traverse_hooks(saved, visit, arg)) {
      return status;
    }
    if (shows_tensors) {
      Py_VISIT(owned_tensor(saved));
    }
  }
  // The collector also meets objects that are still being built: no node yet.
  if (Node* node = compat::owned_node(base.cdata)) {
    if (const int status = traverse_node(*node, visit, arg)) {
      return status;
    }
    if (shows_itself(object, visit)) {
      return visit(object, arg);
    }
  }
  return 0;
}

int clear_ctx(PyObject* object) {
  Ctx& ctx = as_ctx(object);
  THPFunction& base = ctx.base;
  Py_CLEAR(base.needs_input_grad);
  Py_CLEAR(base.to_save);
  Py_CLEAR(base.non_differentiable);
  Py_CLEAR(base.dirty_tensors);
  Py_CLEAR(base.compiled_autograd_backward_state);
  Py_CLEAR(base.saved_for_forward);
  Py_CLEAR(ctx.output_grad_dtypes());
  if (ctx.aside && !ctx.aside->lent.empty()) {
    // Backward through this node raises from now on. The tensors are moved out
    // before they die: code that their end runs may look at this ctx.
    ctx.set_freed();
    std::exchange(ctx.aside->lent, {});
  }
  // Each stays in its place, empty: Python code may hold its address.
  for (size_t i = 0; i < base.saved_variables.size(); ++i) {
    if (base.saved_variables[i].has_hooks()) {
      ctx.set_freed();
      const SavedVariable dropped = std::move(base.saved_variables[i]);
    }
  }
  return 0;
}

void init_collections() {
  static bool done = false;
  if (done) {
    return;
  }
  Ref module = checked(PyImport_ImportModule("gc"));
  Ref callbacks = checked(PyObject_GetAttrString(module.get(), "callbacks"));
  Ref callback = checked(PyCFunction_New(&on_collection, nullptr));
  check_status(PyList_Append(callbacks.get(), callback.get()));
  done = true;
}

void finalize_ctx(PyObject* object) {
  Ctx& ctx = as_ctx(object);
  auto& saved = ctx.base.saved_variables;
  // With one reference left this is no cycle: the object dies in the ordinary
  // way, and so do its tensors.
  if (Py_REFCNT(object) == 1 || saved.empty()) {
    return;
  }
  try {
    std::vector<Ref>& lent = ctx.saved_aside().lent;
    lent.resize(saved.size());
    for (size_t i = 0; i < saved.size(); ++i) {
      if (PyObject* tensor = owned_tensor(saved[i])) {
        lent[i] = Ref::share(tensor);
        data_of(saved[i]).reset();
      }
    }
  } catch (const std::bad_alloc&) {
    // No memory: release what is saved, and report it. An exception that is set
    // already belongs to the caller.
    const ErrorAside callers;
    ctx.set_freed();
    std::exchange(saved, {});
    PyErr_NoMemory();
    PyErr_WriteUnraisable(object);
  }
}

} // namespace torch_ext
