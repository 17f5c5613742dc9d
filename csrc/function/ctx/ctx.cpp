// SPDX-License-Identifier: BSD-3-Clause
// Birth and death of ctx.
#include <function/ctx/ctx.h>

#include <function/ctx/gc.h>
#include <python/error.h>
#include <python/tuple.h>

#include <torch/csrc/autograd/saved_variable.h>

#include <memory>
#include <new>
#include <utility>

namespace torch_ext {

using torch::autograd::SavedVariable;
using torch::autograd::VariableInfo;

namespace {

/// A ctx with a node, of a type that has CtxType's tp_new. Throws.
Ref make_ctx(PyTypeObject* type) {
  PyObject* object = checked(type->tp_alloc(type, 0)).release();
  // tp_alloc zeroes the memory; members whose zero is not their start follow.
  Ctx& ctx = as_ctx(object);
  THPFunction& base = ctx.base;
  new (&base.compiled_autograd_symints) std::vector<c10::SymInt>();
  new (&base.output_info) std::vector<VariableInfo>();
  new (&base.input_info) std::vector<VariableInfo>();
  new (&base.saved_variables) std::vector<SavedVariable>();
  new (&base.is_variable_input) std::vector<bool>();
  new (&base.cdata) compat::NodeOfCtx();
  compat::construct_newer_members(base);
  new (&ctx.aside) std::unique_ptr<SavedAside>();
  new (&ctx.packed_inputs) PackedInputs();
  new (&ctx.packed_outputs) PackedOutputs();
  // True, since torch's own apply may fill this object, and knows of no flag.
  new (&ctx.maybe_saved) std::atomic<bool>(true);
  base.materialize_grads = true;
  base.materialize_non_diff_grads = true;
  ctx.input_count = -1;
  ctx.tensor_count = -1;
  // From here on ctx_dealloc can end the object, with or without a node.
  Ref owner = Ref::steal(object);
  compat::make_node(object);
  return owner;
}

} // namespace

PyObject* ctx_new(PyTypeObject* type, PyObject*, PyObject*) {
  return to_slot([&] { return make_ctx(type); });
}

void ctx_dealloc(PyObject* object) {
  PyObject_GC_UnTrack(object);
  clear_ctx(object);
  Ctx& ctx = as_ctx(object);
  THPFunction& base = ctx.base;
  compat::forget_ctx(base.cdata, object);
  // The node goes first: hooks and edges may refer to what is saved.
  std::destroy_at(&base.cdata);
  compat::destroy_newer_members(base);
  ctx.packed_outputs.~PackedOutputs();
  ctx.packed_inputs.~PackedInputs();
  ctx.aside.~unique_ptr();
  base.is_variable_input.~vector();
  base.saved_variables.~vector();
  base.input_info.~vector();
  base.output_info.~vector();
  base.compiled_autograd_symints.~vector();
  Py_TYPE(object)->tp_free(object);
}

Ref new_ctx(PyTypeObject* type) {
  // What type() does, less the argument tuples, unless a class on the way has
  // an __init__ or __new__ of its own.
  if (type->tp_new == ctx_new && type->tp_init == PyBaseObject_Type.tp_init &&
      Py_TYPE(type)->tp_call == PyType_Type.tp_call) {
    return make_ctx(type);
  }
  Ref object = checked(PyObject_CallNoArgs(reinterpret_cast<PyObject*>(type)));
  if (!is_ctx_type(Py_TYPE(object.get()))) {
    raise(
        PyExc_TypeError,
        "%s() must return a grad_fn, got an object of type %s",
        type->tp_name,
        Py_TYPE(object.get())->tp_name);
  }
  return object;
}

compat::NodePtr live_node(Ctx& ctx, const char* attribute) {
  compat::NodePtr node = compat::node_of(ctx.base.cdata);
  TORCH_CHECK(
      node,
      "Attribute '",
      attribute,
      "' is invalid for this instance of _C._FunctionBase. "
      "Accessing this attribute directly on an instance of autograd.Function "
      "is a legacy access pattern that is no longer supported. For examples "
      "on how to use new\u2011style autograd functions, see "
      "https://pytorch.org/docs/stable/autograd.html#torch.autograd.Function ");
  return node;
}

void note_needs_input_grad(Ctx& ctx, const Flags& required) {
  // What a class's own __init__ has set, or an earlier call if its __new__
  // returned a ctx that was used before.
  Ref old = Ref::steal(std::exchange(ctx.base.needs_input_grad, nullptr));
  compat::forget_needs_input_grad_bits(ctx.base);
  ctx.input_count = -1;
  if (!required.are_bits()) {
    ctx.base.needs_input_grad = tuple_of_bools(required.size(), [&](size_t i) {
                                  return required[i];
                                }).release();
    return;
  }
  ctx.needs_input_grad = required.bits();
  ctx.input_count = static_cast<int8_t>(required.size());
}

void note_tensors(Ctx& ctx, const Flags& is_tensor) {
  if (!is_tensor.are_bits()) {
    ctx.tensor_count = -1;
    ctx.base.is_variable_input = is_tensor.to_vector();
    return;
  }
  ctx.tensor_bits = is_tensor.bits();
  ctx.tensor_count = static_cast<int8_t>(is_tensor.size());
}

namespace {

/// The tuple of the bits; null if there are none.
Ref needs_input_grad_from_bits(const Ctx& ctx) {
  if (ctx.input_count >= 0) {
    const uint64_t bits = ctx.needs_input_grad;
    return tuple_of_bools(
        static_cast<size_t>(ctx.input_count),
        [bits](size_t i) { return (bits >> i & uint64_t{1}) != 0; });
  }
  if (const auto bits = compat::needs_input_grad_bits(ctx.base)) {
    return tuple_of_bools(bits->size(), [&](size_t i) { return (*bits)[i]; });
  }
  return Ref();
}

} // namespace

Ref needs_input_grad(Ctx& ctx) {
  PyObject*& slot = ctx.base.needs_input_grad;
  if (slot == nullptr) {
    Ref made = needs_input_grad_from_bits(ctx);
    // Making it may have collected garbage, and a finaliser may have asked too.
    if (slot == nullptr) {
      slot = made.release();
    }
  }
  return Ref::share(slot != nullptr ? slot : Py_None);
}

} // namespace torch_ext
