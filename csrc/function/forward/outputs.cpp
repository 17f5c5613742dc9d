// SPDX-License-Identifier: BSD-3-Clause
#include <function/forward/outputs.h>

#include <function/forward/grad_dtypes.h>
#include <function/forward/jvp.h>
#include <function/forward/marks.h>
#include <function/forward/moved_leaves.h>
#include <function/forward/self_view.h>
#include <python/error.h>
#include <python/tensor.h>

#include <torch/csrc/autograd/forward_grad.h>

#include <algorithm>
#include <utility>

namespace torch_ext {

namespace {

using torch::autograd::CreationMeta;
using torch::autograd::Node;
using torch::autograd::optional_variable_list;
using torch::autograd::variable_list;
namespace impl = torch::autograd::impl;

/// One call's outputs on their way into the graph.
class Wrapping {
 public:
  Wrapping(
      Ctx& ctx,
      const Inputs& inputs,
      c10::ArrayRef<PyObject*> raw_outputs,
      const TensorsToSave& to_save,
      bool separate_setup)
      : ctx_(ctx),
        inputs_(inputs),
        raw_(raw_outputs),
        executable_(inputs.executable),
        non_differentiable_(take_non_differentiable(ctx)),
        dirty_(take_dirty(ctx)),
        grad_dtypes_(ctx, raw_outputs, non_differentiable_) {
    if (separate_setup) {
      saved_by_setup_ = saved_by_setup_context(ctx, to_save);
    }
  }

  Wrapped run() {
    outputs_.reserve(raw_.size());
    if (executable_) {
      ctx_.packed_outputs.begin(ctx_.base.output_info, raw_.size());
    }
    if (is_common_case()) {
      wrap_here();
    } else {
      wrap_by_torch();
    }
    if (executable_) {
      grad_dtypes_.declare(ctx_.node());
    }
    return {std::move(outputs_), std::move(attached_)};
  }

 private:
  /// Whether wrap_here() will do. Calls with in-place changes, tangents or pure
  /// views are left to torch's own code, and so is the error for an input that
  /// is returned as it is and was saved by setup_context.
  bool is_common_case() const {
    if (!dirty_.empty() || inputs_.has_tangent || ctx_.base.pure_view) {
      return false;
    }
    if (saved_by_setup_.empty()) {
      return true;
    }
    return std::none_of(raw_.begin(), raw_.end(), [this](PyObject* raw) {
      return is_real_tensor(raw) && inputs_.contains(THPVariable_Unpack(raw)) &&
          saved_by_setup_.contains(THPVariable_Unpack(raw));
    });
  }

  bool is_differentiable(const at::Tensor& tensor) const {
    return torch_ext::is_differentiable(tensor, non_differentiable_);
  }

  /// Stores the next output, `tensor`, and notes what backward needs in order
  /// to make a zero gradient for it.
  void store(at::Tensor&& tensor) {
    note_info(tensor);
    outputs_.push_back(checked(THPVariable_Wrap(std::move(tensor))));
  }

  /// The same for an output that is still the tensor that forward returned.
  void store_as_it_is(PyObject* raw) {
    note_info(THPVariable_Unpack(raw));
    outputs_.push_back(Ref::share(raw));
  }

  void store_other(PyObject* raw) {
    if (executable_) {
      ctx_.packed_outputs.add_none(ctx_.base.output_info);
    }
    outputs_.push_back(Ref::share(raw));
  }

  void note_info(const at::Tensor& tensor) {
    if (executable_) {
      // Nested tensors can't be made from sizes alone.
      const bool by_zeros_like =
          raw_.size() > 1 && tensor.is_nested() && is_differentiable(tensor);
      ctx_.packed_outputs.add(ctx_.base.output_info, tensor, by_zeros_like);
    }
  }

  void wrap_here();
  void wrap_tensor(size_t i, bool differentiable);
  at::Tensor replacement(PyObject* raw, bool differentiable);
  void wrap_by_torch();

  Ctx& ctx_;
  const Inputs& inputs_;
  c10::ArrayRef<PyObject*> raw_;
  bool executable_;
  Marked non_differentiable_;
  Marked dirty_;
  GradDtypes grad_dtypes_;
  Marked saved_by_setup_;
  decltype(Wrapped::outputs) outputs_;
  compat::NodePtr attached_;
};

/// Does what torch's code does in the common case.
void Wrapping::wrap_here() {
  int differentiable_outputs = 0;
  for (size_t i = 0; i < raw_.size(); ++i) {
    PyObject* raw = raw_[i];
    if (!is_real_tensor(raw)) {
      if (executable_) {
        ctx_.node().add_input_metadata(Node::undefined_input());
      }
      store_other(raw);
      continue;
    }
    const bool differentiable =
        executable_ && is_differentiable(THPVariable_Unpack(raw));
    differentiable_outputs += differentiable;
    wrap_tensor(i, differentiable);
  }
  if (compat::kNodeCreationHooks && executable_) {
    attached_ = compat::node_of(ctx_.base.cdata);
  }
  if (differentiable_outputs < 2) {
    return;
  }
  // Autograd can't rebase the history of one output among several.
  for (const Ref& output : outputs_) {
    if (has_tensor_type(output.get())) {
      auto* view =
          impl::get_view_autograd_meta(THPVariable_Unpack(output.get()));
      if (view != nullptr && view->has_bw_view()) {
        view->set_creation_meta(CreationMeta::MULTI_OUTPUT_NODE);
      }
    }
  }
}

/// Wraps the i-th output, a tensor. The one that forward returned is only
/// referred to: a second owner in C++ would change its Python object's count.
void Wrapping::wrap_tensor(size_t i, bool differentiable) {
  PyObject* raw = raw_[i];
  if (executable_) {
    if (differentiable) {
      ctx_.node().add_input_metadata(THPVariable_Unpack(raw));
    } else {
      ctx_.node().add_input_metadata(Node::undefined_input());
    }
  }
  at::Tensor replaced = replacement(raw, differentiable);
  const at::Tensor& tensor =
      replaced.defined() ? replaced : THPVariable_Unpack(raw);
  if (differentiable) {
    impl::set_gradient_edge(
        tensor, {compat::node_of(ctx_.base.cdata), static_cast<uint32_t>(i)});
  }
  if (tensor.is_view()) {
    impl::get_view_autograd_meta(tensor)->set_creation_meta(
        CreationMeta::IN_CUSTOM_FUNCTION);
  }
  if (replaced.defined()) {
    store(std::move(replaced));
  } else {
    store_as_it_is(raw);
  }
}

/// What the caller gets in place of `raw`; undefined if that itself.
at::Tensor Wrapping::replacement(PyObject* raw, bool differentiable) {
  const at::Tensor& tensor = THPVariable_Unpack(raw);
  const bool is_input = inputs_.contains(tensor);
  if (differentiable || !tensor.requires_grad()) {
    return is_input ? view_as_self(raw) : at::Tensor();
  }
  if (is_input) {
    // An alias, so that the caller's tensor keeps its requires_grad.
    return tensor.detach();
  }
  if (!tensor.is_view()) {
    tensor.detach_();
  }
  return at::Tensor();
}

void Wrapping::wrap_by_torch() {
  optional_variable_list raw;
  raw.reserve(raw_.size());
  for (PyObject* item : raw_) {
    raw.emplace_back();
    if (is_real_tensor(item)) {
      raw.back() = THPVariable_Unpack(item);
    }
  }
  const MovedLeaves moved(inputs_, dirty_);
  optional_variable_list wrapped = compat::wrap_outputs(
      inputs_.tensors,
      non_differentiable_.set(),
      dirty_.set(),
      raw,
      executable_ ? compat::node_of(ctx_.base.cdata) : compat::NodePtr(),
      [this](const variable_list& primals, const variable_list& tangents) {
        return call_jvp(ctx_, primals, tangents);
      },
      saved_by_setup_.set(),
      view_as_self_by_python,
      ctx_.base.pure_view,
      attached_);
  for (size_t i = 0; i < raw_.size(); ++i) {
    auto& output = wrapped[i];
    if (!output.has_value()) {
      store_other(raw_[i]);
    } else if (output->is_same(THPVariable_Unpack(raw_[i]))) {
      store_as_it_is(raw_[i]);
    } else {
      store(std::move(*output));
    }
  }
}

} // namespace

Wrapped wrap_outputs(
    Ctx& ctx,
    const Inputs& inputs,
    c10::ArrayRef<PyObject*> raw_outputs,
    const TensorsToSave& to_save,
    bool separate_setup) {
  return Wrapping(ctx, inputs, raw_outputs, to_save, separate_setup).run();
}

} // namespace torch_ext
