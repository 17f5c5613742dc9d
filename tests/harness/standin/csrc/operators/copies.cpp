// SPDX-License-Identifier: BSD-3-Clause
// Copies between devices and the host: which stream they run on, who waits.
#include <device/current.h>
#include <device/memory.h>
#include <operators/views.h>

#include <ATen/ExpandUtils.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

namespace standin {

namespace {

using at::Tensor;

/// Tensor.copy_ on the CPU, on this stream. The views own no memory.
void launch_copy(Stream& stream, Tensor target, Tensor source) {
  stream.launch([target = std::move(target), source = std::move(source)] {
    target.copy_(source);
  });
}

/// On the source's stream, which waits for the target's, and that for it.
void from_device_to_device(const Tensor& target, const Tensor& source) {
  Stream& reading = current(source.device().index());
  Stream& writing = current(target.device().index());
  order(writing, reading);
  launch_copy(reading, cpu_view(target), cpu_view(source));
  order(reading, writing);
}

void from_host(const Tensor& target, const Tensor& source, bool non_blocking) {
  Stream& stream = current(target.device().index());
  const void* memory = source.const_data_ptr();
  if (non_blocking && is_pinned(memory)) {
    record_use_of_pinned(memory, stream);
    launch_copy(stream, cpu_view(target), cpu_view(source));
  } else {
    launch_copy(stream, cpu_view(target), source.clone());
  }
}

void to_host(const Tensor& target, const Tensor& source, bool non_blocking) {
  const auto device = source.device().index();
  Stream& stream = current(device);
  const void* memory = target.const_data_ptr();
  launch_copy(stream, cpu_view(target), cpu_view(source));
  if (non_blocking && is_pinned(memory)) {
    record_use_of_pinned(memory, stream);
  } else {
    wait_for_values(device);
  }
}

Tensor& copy(Tensor& target, const Tensor& source, bool non_blocking) {
  if (target.is_same(source)) {
    return target;
  }
  const c10::MaybeOwned<Tensor> expanded =
      at::expand_inplace(target, source, "copy");
  if (target.numel() == 0) {
    return target;
  }
  if (source._is_zerotensor()) {
    return target.zero_();
  }
  const BelowAutograd below;
  const Tensor& from = *expanded;
  if (is_standin(target) && is_standin(from)) {
    from_device_to_device(target, from);
  } else if (is_standin(target)) {
    from_host(target, from, non_blocking);
  } else {
    to_host(target, from, non_blocking);
  }
  return target;
}

at::Scalar local_scalar_dense(const Tensor& tensor) {
  wait_for_values(tensor.device().index());
  return at::_local_scalar_dense(cpu_view(tensor));
}

Tensor copy_from(
    const Tensor& source,
    const Tensor& target,
    bool non_blocking) {
  Tensor written = target;
  return copy(written, source, non_blocking);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("copy_", &copy);
  library.impl("_copy_from", &copy_from);
  library.impl("_local_scalar_dense", &local_scalar_dense);
}

} // namespace

} // namespace standin
