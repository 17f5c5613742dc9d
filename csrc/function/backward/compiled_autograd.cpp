// SPDX-License-Identifier: BSD-3-Clause
// PyNode as compiled autograd sees it: what makes two nodes the same, and the
// backward that is recorded in place of being run.
#include <function/ctx/ctx.h>
#include <function/ctx/saved.h>
#include <python/error.h>
#include <python/gil.h>
#include <python/names.h>
#include <python/tuple.h>

#include <torch/csrc/Device.h>
#include <torch/csrc/DynamicTypes.h>
#include <torch/csrc/PyInterpreter.h>
#include <torch/csrc/Size.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/utils/wrap_outputs.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

// torch's own, defined a second time: docs/architecture.md says why.
namespace torch::autograd {

namespace {

using torch_ext::checked;
using torch_ext::Ctx;
using torch_ext::Gil;
using torch_ext::names;
using torch_ext::Ref;
using torch_ext::throw_python_error;
using torch_ext::tuple_of;

Ref to_size(const std::vector<c10::SymInt>& sizes) {
  Ref size = checked(THPSizeType.tp_alloc(
      &THPSizeType, static_cast<Py_ssize_t>(sizes.size())));
  for (size_t i = 0; i < sizes.size(); ++i) {
    auto concrete = sizes[i].maybe_as_int();
    PyObject* item = concrete.has_value()
        ? checked(PyLong_FromLongLong(*concrete)).release()
        : py::cast(sizes[i]).release().ptr();
    PyTuple_SET_ITEM(size.get(), static_cast<Py_ssize_t>(i), item);
  }
  return size;
}

/// (layout, device, dtype, size): what a gradient of that input must be like.
Ref input_metadata_tuple(const VariableInfo& info) {
  Ref layout = checked(utils::wrap(info.layout));
  Ref device = checked(THPDevice_New(info.device));
  Ref dtype = checked(utils::wrap(info.scalar_type));
  Ref size = to_size(info.size);
  return checked(
      PyTuple_Pack(4, layout.get(), device.get(), dtype.get(), size.get()));
}

/// For each argument of forward its metadata, or None if it is no tensor.
Ref input_metadata_tuples(const Ctx& ctx) {
  const torch_ext::Flags is_tensor = ctx.are_tensors();
  size_t next_tensor = 0;
  return tuple_of(is_tensor.size(), [&](size_t i) {
    return is_tensor[i]
        ? input_metadata_tuple(ctx.base.input_info.at(next_tensor++))
        : Ref::share(Py_None);
  });
}

Ref to_list(const std::vector<size_t>& numbers) {
  Ref list = checked(PyList_New(static_cast<Py_ssize_t>(numbers.size())));
  for (size_t i = 0; i < numbers.size(); ++i) {
    PyList_SET_ITEM(
        list.get(),
        static_cast<Py_ssize_t>(i),
        checked(PyLong_FromSize_t(numbers[i])).release());
  }
  return list;
}

/// The items of ctx.opaque_objects; none if ctx has no such sequence.
std::vector<c10::SafePyObject> opaque_objects(PyObject* ctx) {
  std::vector<c10::SafePyObject> objects;
  Ref sequence = Ref::steal(PyObject_GetAttr(ctx, names.opaque_objects));
  const Py_ssize_t size = sequence ? PySequence_Size(sequence.get()) : -1;
  if (size < 0) {
    PyErr_Clear();
    return objects;
  }
  for (Py_ssize_t i = 0; i < size; ++i) {
    objects.emplace_back(
        checked(PySequence_GetItem(sequence.get(), i)).release(),
        getPyInterpreter());
  }
  return objects;
}

/// Reads _compiled_autograd_key: what the Function is, and the sizes that its
/// node depends on, which go to `symints`.
size_t read_key(
    PyObject* ctx,
    size_t& key_size,
    std::vector<c10::SymInt>& symints) {
  Ref key =
      checked(PyObject_CallMethodNoArgs(ctx, names._compiled_autograd_key));
  TORCH_CHECK(
      PyTuple_CheckExact(key.get()),
      "_compiled_autograd_key should return tuple of ints");
  const Py_ssize_t size = PyTuple_GET_SIZE(key.get());
  TORCH_CHECK(size > 0, "_compiled_autograd_key should not be empty");
  key_size = static_cast<size_t>(size);
  const Py_ssize_t id = PyLong_AsSsize_t(PyTuple_GET_ITEM(key.get(), 0));
  if (id < 0) {
    TORCH_CHECK(PyErr_Occurred(), "key must be positive");
    throw_python_error();
  }
  symints.clear();
  symints.reserve(key_size - 1);
  for (Py_ssize_t i = 1; i < size; ++i) {
    const Py_ssize_t value = PyLong_AsSsize_t(PyTuple_GET_ITEM(key.get(), i));
    if (value == -1 && PyErr_Occurred()) {
      throw_python_error();
    }
    symints.emplace_back(value);
  }
  return static_cast<size_t>(id);
}

} // namespace

bool PyNode::is_aot_backward() const {
  Gil gil;
  return torch_ext::persisting([&] {
    Ref cls = checked(
        PyObject_GetAttr(torch_ext::compat::ctx_of(*this), names._forward_cls));
    return PyObject_HasAttr(cls.get(), names._aot_id) == 1;
  });
}

void PyNode::compiled_args(CompiledNodeArgs& args) const {
  Gil gil;
  torch_ext::persisting([&] {
    Ctx& ctx = *torch_ext::ctx_of(*this);
    torch_ext::compat::CriticalSection of_ctx(ctx.object());
    THPFunction& function = ctx.base;
    size_t key_size = 0;
    args.collect_size(
        read_key(ctx.object(), key_size, function.compiled_autograd_symints));
    args.collect_size(key_size);

    // The sizes that AOTAutograd saves are all dynamic.
    auto prior =
        args.set_default_dyn_type(torch::dynamo::autograd::SizeInput::DYNAMIC);
    args.collect(function.compiled_autograd_symints);
    args.set_default_dyn_type(prior);

    args.collect(ctx.saved_variables(), /*is_output=*/true);
    args.collect(function.materialize_grads);
    args.collect(ctx.are_tensors().to_vector());
    args.collect(function.needs_input_grad != nullptr || ctx.input_count >= 0);
    args.collect(function.materialize_non_diff_grads);
    args.collect(ctx.output_infos());
    args.collect(ctx.input_infos());

    std::optional<c10::SafePyObject> backward_state;
    PyObject* object = function.compiled_autograd_backward_state;
    if (args.cond(object != nullptr)) {
      backward_state = c10::SafePyObject(Py_NewRef(object), getPyInterpreter());
    }
    args.collect_pynode_objs(
        this,
        c10::SafePyObject(Py_NewRef(ctx.object()), getPyInterpreter()),
        std::move(backward_state),
        opaque_objects(ctx.object()));
  });
}

variable_list PyNode::apply_with_saved(
    const variable_list& inputs,
    SwapSavedVariables& saved) {
  Ctx& ctx = *torch_ext::ctx_of(*this);
  THPFunction& function = ctx.base;
  // Complete since compiled_args(), which saw what is swapped here.
  TORCH_INTERNAL_ASSERT(!ctx.has_packed_infos());
  saved.before(function.compiled_autograd_symints);
  saved.before(function.saved_variables);
  saved.before(function.materialize_non_diff_grads);
  saved.before(function.output_info);
  saved.before(function.input_info);
  variable_list results = apply_with_saved_impl(inputs, saved);
  saved.after(function.compiled_autograd_symints);
  saved.after(function.saved_variables);
  saved.after(function.materialize_non_diff_grads);
  saved.after(function.output_info);
  saved.after(function.input_info);
  return results;
}

variable_list PyNode::apply_with_saved_impl(
    const variable_list& inputs,
    const SwapSavedVariables& saved) {
  Gil gil;
  at::OptionalDeviceGuard device;
  return torch_ext::persisting([&] {
    Ctx& ctx = *torch_ext::ctx_of(*this);
    torch_ext::compat::CriticalSection of_ctx(ctx.object());
    Ref gradients = checked(to_py_args(inputs, &device));
    Ref metadata = input_metadata_tuples(ctx);
    Ref tensors = torch_ext::unpack_saved(ctx);
    const auto [backward_index, state_index, opaque_indices] =
        saved.retrieve_pynode_objs(this);
    Ref backward = checked(PyLong_FromSize_t(backward_index));
    Ref backward_state = Ref::share(Py_None);
    if (state_index.has_value()) {
      backward_state = checked(PyLong_FromSize_t(*state_index));
      Py_CLEAR(ctx.base.compiled_autograd_backward_state);
    }
    Ref opaque = to_list(opaque_indices);
    Ref result = torch_ext::as_tuple(checked(PyObject_CallMethodObjArgs(
        saved.get_py_compiler(),
        names.proxy_call_backward,
        gradients.get(),
        metadata.get(),
        tensors.get(),
        backward.get(),
        ctx.object(),
        backward_state.get(),
        opaque.get(),
        nullptr)));
    return to_variable_list(result.get(), ctx.are_tensors().to_vector());
  });
}

} // namespace torch::autograd
