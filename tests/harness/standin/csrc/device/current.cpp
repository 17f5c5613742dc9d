// SPDX-License-Identifier: BSD-3-Clause
#include <device/current.h>

#include <device/late_error.h>

#include <c10/util/Exception.h>

#include <array>
#include <atomic>
#include <utility>

namespace standin {

namespace {

thread_local c10::DeviceIndex device_of_thread = 0;
thread_local std::array<c10::StreamId, kDevices> streams_of_thread{};
std::atomic<int64_t> sync_debug_mode{0};

c10::Stream handle(c10::DeviceIndex device, c10::StreamId id) {
  return c10::Stream(c10::Stream::UNSAFE, c10::Device(kType, device), id);
}

} // namespace

c10::DeviceIndex current_device() {
  return device_of_thread;
}

c10::DeviceIndex exchange_device(c10::DeviceIndex device) {
  TORCH_CHECK(
      device >= 0 && device < kDevices,
      "standin error: invalid device ordinal ",
      static_cast<int>(device));
  return std::exchange(device_of_thread, device);
}

c10::Stream current_stream(c10::DeviceIndex device) {
  return handle(device, streams_of_thread.at(device));
}

c10::Stream exchange_stream(c10::Stream stream) {
  const auto device = stream.device_index();
  return handle(
      device, std::exchange(streams_of_thread.at(device), stream.id()));
}

c10::DeviceIndex index_of(c10::Device device) {
  const auto index = device.has_index() ? device.index() : current_device();
  TORCH_CHECK(
      index < kDevices,
      "standin error: invalid device ordinal ",
      static_cast<int>(index));
  return index;
}

c10::Stream default_stream(c10::DeviceIndex device) {
  return handle(device, 0);
}

c10::Stream new_stream(c10::DeviceIndex device) {
  static std::array<std::atomic<size_t>, kDevices> given;
  const auto number = given.at(device)++ % kPooledStreams;
  return handle(device, static_cast<c10::StreamId>(1 + number));
}

void wait_for_values(c10::DeviceIndex device) {
  if (sync_debug_mode == 1) {
    TORCH_WARN("called a synchronizing standin operation");
  }
  TORCH_CHECK(sync_debug_mode != 2, "called a synchronizing standin operation");
  check_late_error();
  now(current(device)).wait();
  check_late_error();
}

void set_sync_debug_mode(int64_t mode) {
  sync_debug_mode = mode;
}

} // namespace standin
