// The Python object behind ctx and grad_fn.
#pragma once

#include <compat.h>
#include <function/tensor_infos.h>
#include <python/ref.h>

#include <atomic>

namespace torch_ext {

/// Instances of torch_ext._C.FunctionState. torch's own struct comes first, so
/// that every cast in libtorch_python stays valid; ours follows.
///
/// Ownership of the state and its node (base.cdata): see compat.h.
///
/// Once Python code can see it, what changes is guarded by the GIL or, where
/// there is none, by the object's critical section.
struct State {
  THPFunction base;

  /// needs_input_grad as bits, until somebody asks for the tuple; -1 in
  /// `input_count` says that there are none and base.needs_input_grad counts.
  uint64_t needs_input_grad;
  Py_ssize_t input_count;

  /// Saved variables whose storage somebody may still look at: while an unpack
  /// hook runs (`unpacking` counts), or since _raw_saved_tensors showed them.
  std::vector<std::vector<torch::autograd::SavedVariable>> retired;
  uint32_t unpacking;
  bool raw_saved_shown;

  /// Whether base.saved_variables may have any. Read without the GIL.
  std::atomic<bool> maybe_saved;

  /// Tensors of saved variables that are held as Python objects instead, each at
  /// the variable's index, since the garbage collector finalised the state.
  std::vector<Ref> lent;

  compat::Lacking lacking;

  /// What is not yet in base.input_info and base.output_info.
  PackedInfos packed_inputs;
  PackedInfos packed_outputs;

  PyObject* object() {
    return reinterpret_cast<PyObject*>(this);
  }
  /// The node, which something must hold.
  torch::autograd::Node& node() {
    return *compat::node_of(base.cdata);
  }
  PyObject*& output_grad_dtypes() {
    return compat::output_grad_dtypes(base, lacking);
  }
  bool& boxed_grads_call() {
    return compat::boxed_grads_call(base, lacking);
  }
  /// base.saved_variables, with what was lent put back. Needs the GIL.
  std::vector<torch::autograd::SavedVariable>& saved_variables();
  /// base.input_info and base.output_info, complete.
  const std::vector<torch::autograd::VariableInfo>& input_infos() {
    compat::CriticalSection of_ctx(object());
    packed_inputs.unpack(base.input_info);
    return base.input_info;
  }
  const std::vector<torch::autograd::VariableInfo>& output_infos() {
    compat::CriticalSection of_ctx(object());
    packed_outputs.unpack(base.output_info);
    return base.output_info;
  }
  bool has_packed_infos() const {
    return !packed_inputs.empty() || !packed_outputs.empty();
  }
  bool has_saved() const {
    return maybe_saved.load(std::memory_order_acquire);
  }
  /// Whether the engine has released what was saved. Needs no GIL.
  bool freed() {
    return std::atomic_ref<char>(base.has_freed_buffers)
               .load(std::memory_order_acquire) != 0;
  }
  void set_freed() {
    std::atomic_ref<char>(base.has_freed_buffers)
        .store(1, std::memory_order_release);
  }
};

extern PyTypeObject StateType;

/// The metaclass of StateType's subclasses. Its isinstance() also holds for
/// instances of the class that torch made for the Function: nodes older than
/// the subclass.
extern PyTypeObject StateMetaType;

inline State& as_state(PyObject* object) {
  return *reinterpret_cast<State*>(object);
}

inline bool is_state_type(PyTypeObject* type) {
  return PyType_IsSubtype(type, &StateType) != 0;
}

/// The state of a node of ours; null once the state is being deallocated.
inline State* state_of(const torch::autograd::PyNode& node) {
  return reinterpret_cast<State*>(compat::ctx_of(node));
}

/// The node, held. Throws torch's error, which names the attribute asked for,
/// where there is none.
compat::NodePtr live_node(State& state, const char* attribute);

/// Makes an instance of `type`, a subclass of StateType, as type() would.
/// A new reference; null with an exception set.
PyObject* new_state(PyTypeObject* type);

/// The tuple of bools, made on first use: a new reference (None where there is
/// none), or null with an exception set.
PyObject* needs_input_grad(State& state);

/// Drops what was saved for backward. Needs the GIL.
void drop_saved(State& state);

/// The descriptor of ctx.output_grad_dtypes, for a torch whose ctx has none: a
/// new reference, or null with an exception set.
PyObject* new_output_grad_dtypes();

/// Makes both types ready. False with an exception set.
bool init_state_types();

// The tables of StateType (attributes.cpp and methods.cpp).
extern PyGetSetDef state_attributes[];
extern PyMethodDef state_methods[];

} // namespace torch_ext
