// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <device/stream.h>

#include <c10/core/Device.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace standin {

inline constexpr auto kType = c10::DeviceType::PrivateUse1;
/// Besides the default one; further streams share these.
inline constexpr size_t kPooledStreams = 32;

/// The current device of this thread, and the current stream of each device.
c10::DeviceIndex current_device();
c10::DeviceIndex exchange_device(c10::DeviceIndex device);
c10::Stream current_stream(c10::DeviceIndex device);
c10::Stream exchange_stream(c10::Stream stream);

inline Stream& current(c10::DeviceIndex device) {
  return stream_of(current_stream(device));
}

/// `device`, the current one standing for none.
c10::DeviceIndex index_of(c10::Device device);

c10::Stream default_stream(c10::DeviceIndex device);
/// The next one of the pool.
c10::Stream new_stream(c10::DeviceIndex device);

/// Has the current stream done what it got, for the host to read its values.
void wait_for_values(c10::DeviceIndex device);
/// What wait_for_values() does besides: 0 nothing, 1 warns, 2 throws.
void set_sync_debug_mode(int64_t mode);

/// Operators that are called meanwhile go to kernels alone.
class BelowAutograd {
  c10::impl::ForceDispatchKeyGuard keys_{
      c10::DispatchKeySet(c10::DispatchKey::BackendSelect),
      c10::autograd_dispatch_keyset_with_ADInplaceOrView |
          c10::autocast_dispatch_keyset | c10::default_excluded_set};
  c10::AutoGradMode grad_mode_{false};
};

} // namespace standin
