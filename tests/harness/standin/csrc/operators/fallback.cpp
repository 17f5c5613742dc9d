// SPDX-License-Identifier: BSD-3-Clause
// Operators that have no kernel of their own here: all but a few. The CPU's
// kernel runs on the current stream, over the same memory.
#include <operators/fallback.h>

#include <device/current.h>
#include <device/random.h>
#include <operators/layouts.h>
#include <operators/views.h>

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/enum_tag.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/record_function.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <utility>
#include <vector>

namespace standin {

namespace {

using at::Tensor;
using c10::IValue;
using torch::jit::Stack;

/// `value` with its tensors, also those in a list, as `change` returns them.
template <typename Change>
IValue with_tensors(const IValue& value, const Change& change) {
  if (value.isTensor()) {
    return change(value.toTensor());
  }
  if (value.isTensorList()) {
    c10::List<Tensor> changed;
    for (const Tensor& tensor : value.toTensorVector()) {
      changed.push_back(change(tensor));
    }
    return changed;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> changed;
    for (const std::optional<Tensor>& tensor : value.toOptionalTensorList()) {
      changed.push_back(
          tensor.has_value() ? std::optional(change(*tensor)) : std::nullopt);
    }
    return changed;
  }
  return value;
}

template <typename See>
void each_tensor(const IValue& value, const See& see) {
  with_tensors(value, [&see](const Tensor& tensor) {
    see(tensor);
    return tensor;
  });
}

std::vector<Tensor> tensors_of(const IValue& value) {
  std::vector<Tensor> tensors;
  each_tensor(
      value, [&tensors](const Tensor& tensor) { tensors.push_back(tensor); });
  return tensors;
}

bool any_has_parts(const IValue& value) {
  const auto tensors = tensors_of(value);
  return std::any_of(tensors.begin(), tensors.end(), &has_parts);
}

Tensor as_meta(const Tensor& tensor) {
  if (!tensor.defined() || (tensor.is_cpu() && tensor.dim() == 0)) {
    return tensor;
  }
  Tensor meta = at::empty_strided(
      tensor.sizes(),
      tensor.strides(),
      tensor.options().device(at::kMeta).requires_grad(false));
  meta._set_conj(tensor.is_conj());
  meta._set_neg(tensor.is_neg());
  return meta;
}

/// What a kernel reads later: a tensor of the host may have changed by then.
Tensor as_cpu(const Tensor& tensor) {
  if (!tensor.defined()) {
    return tensor;
  }
  if (is_standin(tensor)) {
    return host_view(tensor);
  }
  Tensor copy = tensor.clone();
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) {
    copy.unsafeGetTensorImpl()->set_wrapped_number(true);
  }
  return copy;
}

/// A call of an operator with tensors of one device.
class Call {
 public:
  Call(const c10::OperatorHandle& op, Stack& stack)
      : op_(op),
        schema_(op.schema()),
        arguments_(
            stack.end() - static_cast<int64_t>(schema_.arguments().size()),
            stack.end()),
        guard_(device()) {}

  /// Its results, of which some may be arguments.
  Stack run() {
    if (const auto results = shapes()) {
      return run_later(*results);
    }
    return run_now();
  }

 private:
  c10::Device device() const;
  bool mixes_dtypes() const;
  bool needs_values() const;
  bool has_shapes() const;
  std::optional<Stack> shapes() const;
  Stack run_later(const Stack& metas);
  Stack run_now();
  void resize_written(const Stack& as_written) const;
  void copy_back(const Stack& written) const;
  template <typename Change>
  Stack arguments_with(c10::Device device, const Change& change) const;
  std::optional<size_t> written(size_t result) const;
  bool is_written(size_t argument) const {
    const auto* alias = schema_.arguments()[argument].alias_info();
    return alias != nullptr && alias->isWrite();
  }

  const c10::OperatorHandle& op_;
  const c10::FunctionSchema& schema_;
  const Stack arguments_;
  const c10::DeviceGuard guard_;
};

/// Throws if there are several. As on a GPU, a number may be on the CPU, and so
/// may indices.
c10::Device Call::device() const {
  std::optional<c10::Device> device;
  const bool takes_indices = schema_.name().find("index") != std::string::npos;
  const auto see = [&](const Tensor& tensor) {
    if (!tensor.defined() ||
        (tensor.is_cpu() && (tensor.dim() == 0 || takes_indices))) {
      return;
    }
    TORCH_CHECK(
        device.value_or(tensor.device()) == tensor.device(),
        "Expected all tensors to be on the same device, but found at least "
        "two devices, ",
        *device,
        " and ",
        tensor.device(),
        "! (when calling ",
        schema_.operator_name(),
        ")");
    device = tensor.device();
  };
  for (const IValue& argument : arguments_) {
    each_tensor(argument, see);
    if (argument.isDevice() && !device.has_value()) {
      device = argument.toDevice();
    }
  }
  return {kType, index_of(device.value_or(kType))};
}

/// Whether the operator wants one dtype, and gets several: only kernels check.
bool Call::mixes_dtypes() const {
  const auto& name = schema_.name();
  std::optional<c10::ScalarType> dtype;
  bool mixed = false;
  for (const IValue& argument : arguments_) {
    each_tensor(argument, [&](const Tensor& tensor) {
      if (tensor.defined()) {
        mixed = mixed ||
            dtype.value_or(tensor.scalar_type()) != tensor.scalar_type();
        dtype = tensor.scalar_type();
      }
    });
  }
  return mixed &&
      (name.ends_with("mm") || name.ends_with("mv") || name.ends_with("dot"));
}

/// Whether shapes, or what isn't a tensor, depend on values, or there is an
/// error that a GPU would report at once.
bool Call::needs_values() const {
  if (mixes_dtypes()) {
    return true;
  }
  for (const IValue& argument : arguments_) {
    if (any_has_parts(argument)) {
      return true;
    }
  }
  for (const auto& result : schema_.returns()) {
    if (!result.type()->isSubtypeOf(*c10::TensorType::get()) &&
        !result.type()->isSubtypeOf(*c10::ListType::ofTensors())) {
      return true;
    }
  }
  bool draws = op_.hasTag(at::Tag::nondeterministic_seeded);
  for (const auto& argument : schema_.arguments()) {
    draws = draws && argument.name() != "generator";
  }
  return draws || op_.hasTag(at::Tag::data_dependent_output) ||
      op_.hasTag(at::Tag::dynamic_output_shape);
}

template <typename Change>
Stack Call::arguments_with(c10::Device device, const Change& change) const {
  Stack changed;
  changed.reserve(arguments_.size());
  for (size_t i = 0; i < arguments_.size(); ++i) {
    const IValue& argument = arguments_[i];
    if (argument.isDevice()) {
      changed.emplace_back(device);
    } else if (schema_.arguments()[i].name() == "generator") {
      const auto given = argument.toOptional<at::Generator>();
      changed.emplace_back(
          device.is_cpu() ? IValue(generator_of_call(
                                given, guard_.current_device().index()))
                          : IValue());
    } else {
      changed.push_back(with_tensors(
          argument, [&](const Tensor& tensor) { return change(tensor, i); }));
    }
  }
  return changed;
}

/// The argument that is also this result, if there is one.
std::optional<size_t> Call::written(size_t result) const {
  const auto* alias = schema_.returns()[result].alias_info();
  if (alias == nullptr) {
    return std::nullopt;
  }
  TORCH_CHECK(
      alias->isWrite(), "standin has no view for ", schema_.operator_name());
  for (size_t i = 0; i < arguments_.size(); ++i) {
    const auto* other = schema_.arguments()[i].alias_info();
    if (other != nullptr && *other == *alias) {
      return i;
    }
  }
  TORCH_CHECK(false, "no argument is result ", result);
}

/// Whether all results are arguments of the right shape. What torch's composite
/// kernels give an out= operator is, and anything else is if it isn't empty.
bool Call::has_shapes() const {
  bool all_out = !schema_.returns().empty();
  for (size_t i = 0; i < schema_.returns().size(); ++i) {
    const auto argument = written(i);
    all_out = all_out && argument.has_value() &&
        schema_.arguments()[*argument].is_out() &&
        arguments_[*argument].isTensor() &&
        arguments_[*argument].toTensor().numel() != 0;
  }
  return all_out;
}

Stack call_below_autograd(const c10::OperatorHandle& op, Stack stack) {
  const BelowAutograd below;
  op.callBoxed(stack);
  return stack;
}

/// An operator may resize what it is given to write to.
void Call::resize_written(const Stack& as_written) const {
  for (size_t i = 0; i < arguments_.size(); ++i) {
    if (is_written(i) && arguments_[i].isTensor() &&
        arguments_[i].toTensor().defined() &&
        !has_parts(arguments_[i].toTensor())) {
      at::native::resize_output(
          arguments_[i].toTensor(), as_written[i].toTensor().sizes());
    }
  }
}

void Call::copy_back(const Stack& written) const {
  for (size_t i = 0; i < arguments_.size(); ++i) {
    if (is_written(i)) {
      const auto targets = tensors_of(arguments_[i]);
      const auto sources = tensors_of(written[i]);
      for (size_t k = 0; k < targets.size(); ++k) {
        if (targets[k].defined()) {
          targets[k].copy_(sources[k]);
        }
      }
    }
  }
}

/// What the operator returns for tensors without values, if it can do without.
std::optional<Stack> Call::shapes() const {
  if (needs_values()) {
    return std::nullopt;
  }
  if (has_shapes()) {
    return Stack(schema_.returns().size());
  }
  try {
    const at::DisableRecordFunctionGuard unseen;
    const Stack inputs = arguments_with(
        at::kMeta,
        [](const Tensor& tensor, size_t) { return as_meta(tensor); });
    Stack results = call_below_autograd(op_, inputs);
    resize_written(inputs);
    return results;
  } catch (const std::exception&) {
    // It can't, or something is wrong: the CPU will say what.
    return std::nullopt;
  }
}

/// Copies what the CPU's kernel returned to where it belongs.
void write(
    const c10::OperatorHandle& op,
    const IValue& value,
    const std::vector<Tensor>& targets) {
  size_t next = 0;
  each_tensor(value, [&](const Tensor& tensor) {
    if (tensor.defined()) {
      const Tensor& target = targets.at(next);
      TORCH_CHECK(
          target.sizes() == tensor.sizes() && target.dtype() == tensor.dtype(),
          op.operator_name(),
          " returned another shape or dtype than for a tensor without values");
      target.copy_(tensor);
    }
    ++next;
  });
}

/// Shapes now, values when the stream gets there.
Stack Call::run_later(const Stack& metas) {
  const BelowAutograd below;
  Stack results;
  std::vector<std::vector<Tensor>> targets(metas.size());
  for (size_t i = 0; i < metas.size(); ++i) {
    if (const auto argument = written(i)) {
      results.push_back(arguments_[*argument]);
      continue;
    }
    results.push_back(with_tensors(metas[i], [&](const Tensor& meta) {
      Tensor result = meta.defined()
          ? empty_strided(meta.sizes(), meta.strides(), meta.scalar_type())
          : meta;
      targets[i].push_back(meta.defined() ? cpu_view(result) : meta);
      return result;
    }));
  }
  Stack inputs = arguments_with(
      at::kCPU, [](const Tensor& tensor, size_t) { return as_cpu(tensor); });
  current(guard_.current_device().index())
      .launch([op = op_, inputs = std::move(inputs), targets] {
        Stack stack = inputs;
        op.callBoxed(stack);
        for (size_t i = 0; i < stack.size(); ++i) {
          if (!targets[i].empty()) {
            write(op, stack[i], targets[i]);
          }
        }
      });
  return results;
}

/// The host waits, and computes.
Stack Call::run_now() {
  wait_for_values(guard_.current_device().index());
  const BelowAutograd below;
  const Stack inputs =
      arguments_with(at::kCPU, [this](const Tensor& tensor, size_t argument) {
        const Tensor cpu = as_cpu(tensor);
        return is_written(argument) && cpu.defined() ? cpu.clone() : cpu;
      });
  const Stack returned = call_below_autograd(op_, inputs);
  resize_written(inputs);
  copy_back(inputs);
  Stack results;
  for (size_t i = 0; i < returned.size(); ++i) {
    if (const auto argument = written(i)) {
      results.push_back(arguments_[*argument]);
      continue;
    }
    results.push_back(with_tensors(returned[i], &to_device));
  }
  return results;
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

} // namespace

void fallback(const c10::OperatorHandle& op, Stack* stack) {
  Stack results = Call(op, *stack).run();
  torch::jit::drop(*stack, op.schema().arguments().size());
  for (IValue& result : results) {
    stack->push_back(std::move(result));
  }
}

} // namespace standin
