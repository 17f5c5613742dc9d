// SPDX-License-Identifier: BSD-3-Clause
#include <function/forward/marks.h>

#include <notes/changes.h>
#include <python/error.h>
#include <python/tensor.h>

#include <utility>

namespace torch_ext {

namespace impl = torch::autograd::impl;

namespace {

void insert_tensors(
    Marked& marked,
    PyObject* const* begin,
    PyObject* const* end) {
  for (PyObject* const* item = begin; item != end; ++item) {
    if (is_real_tensor(*item)) {
      marked.insert(THPVariable_Unpack(*item));
    }
  }
}

} // namespace

// Users match on torch's messages, some of which break off in some releases.

Marked take_non_differentiable(Ctx& ctx) {
  Marked marked;
  Ref tuple = Ref::steal(std::exchange(ctx.base.non_differentiable, nullptr));
  if (!tuple) {
    return marked;
  }
  TORCH_CHECK(
      PyTuple_Check(tuple.get()),
      "autograd internal error: non_differentiable attribute is expected to be "
      "a tuple but is ",
      compat::message_end(Py_TYPE(tuple.get())->tp_name));
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple.get()); ++i) {
    PyObject* item = PyTuple_GET_ITEM(tuple.get(), i);
    TORCH_CHECK(
        is_real_tensor(item),
        "mark_non_differentiable only accepts variable arguments, but got ",
        compat::message_end(Py_TYPE(item)->tp_name));
    marked.insert(THPVariable_Unpack(item));
  }
  return marked;
}

Marked take_dirty(Ctx& ctx) {
  Marked marked;
  Ref tuple = Ref::steal(std::exchange(ctx.base.dirty_tensors, nullptr));
  if (!tuple) {
    return marked;
  }
  TORCH_CHECK(
      PyTuple_Check(tuple.get()),
      "autograd internal error: dirty_tensors attribute is expected to be a "
      "tuple but is ",
      compat::message_end(Py_TYPE(tuple.get())->tp_name));
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple.get()); ++i) {
    PyObject* item = PyTuple_GET_ITEM(tuple.get(), i);
    TORCH_CHECK(
        is_real_tensor(item),
        "mark_dirty can only accept variables, but argument ",
        compat::message_end(i, " is of type ", Py_TYPE(item)->tp_name));
    const at::Tensor& tensor = THPVariable_Unpack(item);
    marked.insert(tensor);
    bump_version(tensor, "mark_dirty");
  }
  return marked;
}

Marked saved_by_setup_context(const Ctx& ctx, const TensorsToSave& to_save) {
  Marked marked;
  if (const Ref saved = Ref::share(ctx.base.saved_for_forward)) {
    PyObject* tuple = saved.get();
    TORCH_CHECK(
        PyTuple_Check(tuple),
        "autograd internal error: saved_for_forward attribute is expected to "
        "be a tuple but is ",
        compat::message_end(Py_TYPE(tuple)->tp_name));
    insert_tensors(
        marked,
        PySequence_Fast_ITEMS(tuple),
        PySequence_Fast_ITEMS(tuple) + PyTuple_GET_SIZE(tuple));
  }
  insert_tensors(marked, to_save.begin(), to_save.end());
  return marked;
}

bool is_differentiable(
    const at::Tensor& output,
    const Marked& non_differentiable) {
  return !non_differentiable.contains(output) &&
      torch::autograd::isDifferentiableType(output.scalar_type());
}

} // namespace torch_ext
