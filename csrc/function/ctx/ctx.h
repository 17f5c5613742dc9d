// SPDX-License-Identifier: BSD-3-Clause
// The Python object behind ctx and grad_fn.
#pragma once

#include <compat.h>
#include <cpp/flags.h>
#include <function/ctx/packed_infos.h>
#include <function/ctx/type.h>
#include <python/ref.h>

#include <torch/csrc/autograd/python_function.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace torch_ext {

/// What was saved by a ctx and is no longer in its place. Few have any.
struct SavedAside {
  /// Saved variables that were dropped, but whose storage somebody may still
  /// look at: an unpack hook that is running, or whoever was given them.
  std::vector<std::vector<torch::autograd::SavedVariable>> retired;

  /// Once the garbage collector has finalised the ctx: saved tensors that are
  /// held here, as Python objects, and no longer by their saved variable, each
  /// at the variable's index. Null if the variable still holds its own.
  std::vector<Ref> lent;
};

/// An instance of torch_ext._C.Ctx. torch's own struct comes first, so that
/// every cast in libtorch_python stays valid; our members follow.
///
/// compat.h says which of the ctx and its node (base.cdata) owns the other.
/// What changes once Python code can see the object is guarded by the GIL or,
/// on free-threaded Python, by the object's critical section.
struct Ctx {
  THPFunction base;

  /// ctx.needs_input_grad as bits, the first argument in the lowest, until
  /// somebody asks for the tuple. `input_count` is -1 if there are no bits, and
  /// base.needs_input_grad counts.
  uint64_t needs_input_grad;

  /// The same for whether each argument is a tensor: if `tensor_count` is -1,
  /// base.is_variable_input counts.
  uint64_t tensor_bits;

  int8_t input_count;
  int8_t tensor_count;

  /// Whether _raw_saved_tensors gave somebody the saved variables.
  bool raw_saved_shown;

  /// Whether base.saved_variables may have any. Read without the GIL.
  std::atomic<bool> maybe_saved;

  /// How many unpack hooks are running.
  uint32_t unpacking;

  std::unique_ptr<SavedAside> aside; // null until there is something

  [[no_unique_address]] compat::Lacking lacking;

  /// What is not yet in base.input_info and base.output_info.
  PackedInputs packed_inputs;
  PackedOutputs packed_outputs;

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
  /// For each argument of the call whether it is a tensor.
  Flags are_tensors() const {
    return tensor_count < 0
        ? Flags(base.is_variable_input)
        : Flags(tensor_bits, static_cast<size_t>(tensor_count));
  }
  bool& boxed_grads_call() {
    return compat::boxed_grads_call(base, lacking);
  }
  /// base.saved_variables, with what was lent put back (saved.cpp). Needs the
  /// GIL.
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
  /// Makes `aside` if there is none. Needs the GIL.
  SavedAside& saved_aside() {
    if (!aside) {
      aside = std::make_unique<SavedAside>();
    }
    return *aside;
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

static_assert(
    sizeof(Ctx) + compat::kMostAroundObject <= compat::kLargestPooledObject,
    "each ctx would be allocated by malloc, which takes 500 instructions more");

inline Ctx& as_ctx(PyObject* object) {
  return *reinterpret_cast<Ctx*>(object);
}

/// The ctx of a node of ours; null once the ctx is being deallocated.
inline Ctx* ctx_of(const torch::autograd::PyNode& node) {
  return reinterpret_cast<Ctx*>(compat::ctx_of(node));
}

/// The node, held. Throws torch's error, which names the attribute asked for,
/// if there is none.
compat::NodePtr live_node(Ctx& ctx, const char* attribute);

/// Makes an instance of `type`, a subclass of CtxType, as type() would. If the
/// class has a __new__ of its own, it may be one that was used before. Throws.
Ref new_ctx(PyTypeObject* type);

/// Notes for each argument of a call whether it requires grad, in place of
/// whatever a class's own __init__ has set. Throws if there is no memory.
void note_needs_input_grad(Ctx& ctx, const Flags& required);

/// Notes for each argument of a call whether it is a tensor. Throws if there is
/// no memory.
void note_tensors(Ctx& ctx, const Flags& is_tensor);

/// ctx.needs_input_grad, a tuple of bools that is made on first use, or None.
/// Throws if there is no memory.
Ref needs_input_grad(Ctx& ctx);

/// Gives CtxType its attribute _input_grad_buffers, if this torch has that.
/// Throws if there is no memory.
void add_input_grad_buffers();

/// The descriptor of ctx.output_grad_dtypes, for a torch whose ctx has none.
Ref new_output_grad_dtypes();

// CtxType's tp_new and tp_dealloc.
PyObject* ctx_new(PyTypeObject* type, PyObject* arguments, PyObject* keywords);
void ctx_dealloc(PyObject* object);

} // namespace torch_ext
