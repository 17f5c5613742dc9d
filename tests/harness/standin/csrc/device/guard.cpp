// SPDX-License-Identifier: BSD-3-Clause
// What torch asks of devices, streams and events; the engine has a thread for
// each device that is counted here.
#include <device/current.h>
#include <device/late_error.h>
#include <device/memory.h>

#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <atomic>
#include <chrono>
#include <memory>

namespace standin {

namespace {

using c10::Device;
using c10::DeviceIndex;
using Handle = c10::Stream;

struct Event {
  Point point;
  std::shared_ptr<std::atomic<double>> milliseconds; // null: isn't timed
};

Event* event_of(void* event) {
  return static_cast<Event*>(event);
}

double clock_now() {
  const auto since = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::milli>(since).count();
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override {
    return kType;
  }
  DeviceIndex deviceCount() const noexcept override {
    return kDevices;
  }

  Device exchangeDevice(Device device) const override {
    return {kType, exchange_device(device.index())};
  }
  Device getDevice() const override {
    return {kType, current_device()};
  }
  void setDevice(Device device) const override {
    exchange_device(device.index());
  }
  void uncheckedSetDevice(Device device) const noexcept override {
    exchange_device(device.index());
  }

  Handle getStream(Device device) const override {
    return current_stream(index_of(device));
  }
  Handle getDefaultStream(Device device) const override {
    return default_stream(index_of(device));
  }
  Handle getNewStream(Device device, int) const override {
    return new_stream(index_of(device));
  }
  Handle getStreamFromGlobalPool(Device device, bool) const override {
    return new_stream(index_of(device));
  }
  Handle exchangeStream(Handle stream) const override {
    return exchange_stream(stream);
  }
  bool queryStream(const Handle& handle) const override {
    check_late_error();
    return now(stream_of(handle)).reached();
  }
  void synchronizeStream(const Handle& handle) const override {
    now(stream_of(handle)).wait();
    check_late_error();
  }
  void synchronizeDevice(DeviceIndex device) const override {
    wait_for_device(device);
    check_late_error();
  }

  void record(
      void** event,
      const Handle& handle,
      DeviceIndex,
      c10::EventFlag flag) const override {
    if (*event == nullptr) {
      *event = new Event;
    }
    Event& recorded = *event_of(*event);
    Stream& stream = stream_of(handle);
    if (flag == c10::EventFlag::BACKEND_DEFAULT) {
      recorded.milliseconds = std::make_shared<std::atomic<double>>();
      stream.launch([time = recorded.milliseconds] { *time = clock_now(); });
    }
    recorded.point = now(stream);
  }
  void block(void* event, const Handle& handle) const override {
    if (event != nullptr) {
      stream_of(handle).launch(
          [point = event_of(event)->point] { point.wait(); });
    }
  }
  bool queryEvent(void* event) const override {
    check_late_error();
    return event == nullptr || event_of(event)->point.reached();
  }
  void synchronizeEvent(void* event) const override {
    if (event != nullptr) {
      event_of(event)->point.wait();
    }
    check_late_error();
  }
  double elapsedTime(void* first, void* second, DeviceIndex) const override {
    const auto &start = event_of(first)->milliseconds,
               &end = event_of(second)->milliseconds;
    TORCH_CHECK(start && end, "Both events must be created with timing.");
    return *end - *start;
  }
  void destroyEvent(void* event, DeviceIndex) const noexcept override {
    delete event_of(event);
  }

  void recordDataPtrOnStream(const c10::DataPtr& data, const Handle& handle)
      const override {
    record_use(data, stream_of(handle));
  }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

} // namespace

} // namespace standin
