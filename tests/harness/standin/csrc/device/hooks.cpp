// SPDX-License-Identifier: BSD-3-Clause
// What torch asks an accelerator for, besides devices and streams.
#include <device/current.h>
#include <device/memory.h>
#include <device/random.h>

#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/StorageImpl.h>

#include <algorithm>
#include <cstring>

namespace standin {

namespace {

void resize(const c10::Storage& storage, size_t bytes) {
  const c10::DeviceGuard guard(storage.device());
  auto data = device_memory().allocate(bytes);
  const auto kept = std::min(bytes, storage.nbytes());
  if (kept != 0) {
    current(current_device())
        .launch([from = storage.data(), to = data.get(), kept] {
          std::memcpy(to, from, kept);
        });
  }
  storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(data));
  storage.unsafeGetStorageImpl()->set_nbytes(bytes);
}

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  bool hasPrimaryContext(c10::DeviceIndex) const override {
    return true;
  }
  c10::DeviceIndex deviceCount() const override {
    return kDevices;
  }
  void setCurrentDevice(c10::DeviceIndex device) const override {
    exchange_device(device);
  }
  c10::DeviceIndex getCurrentDevice() const override {
    return current_device();
  }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex device) const override {
    return exchange_device(device);
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex device) const override {
    return exchange_device(device);
  }
  bool isPinnedPtr(const void* address) const override {
    return is_pinned(address);
  }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    return &pinned_memory();
  }
  const at::Generator& getDefaultGenerator(
      c10::DeviceIndex device) const override {
    return default_generator(index_of({kType, device}));
  }
  at::Generator getNewGenerator(c10::DeviceIndex device) const override {
    return new_generator(index_of({kType, device}));
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes)
      const override {
    resize(storage, bytes);
  }
};

Hooks hooks;
[[maybe_unused]] const bool registered = [] {
  at::RegisterPrivateUse1HooksInterface(&hooks);
  return true;
}();

} // namespace

} // namespace standin
