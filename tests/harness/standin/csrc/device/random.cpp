// SPDX-License-Identifier: BSD-3-Clause
#include <device/random.h>

#include <device/current.h>

#include <ATen/CPUGeneratorImpl.h>
#include <torch/library.h>

#include <array>
#include <mutex>

namespace standin {

namespace {

struct GeneratorImpl final : at::CPUGeneratorImpl {
  explicit GeneratorImpl(c10::DeviceIndex device) {
    device_ = c10::Device(kType, device);
    key_set_ = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1);
  }

 private:
  GeneratorImpl* clone_impl() const override {
    auto* copy = new GeneratorImpl(device_.index());
    copy->set_state(*get_state());
    return copy;
  }
};

c10::DeviceIndex checked(int64_t device) {
  return index_of({kType, static_cast<c10::DeviceIndex>(device)});
}

void manual_seed_all(int64_t seed) {
  for (c10::DeviceIndex device = 0; device < kDevices; ++device) {
    at::Generator generator = default_generator(device);
    std::lock_guard lock(generator.mutex());
    generator.set_current_seed(static_cast<uint64_t>(seed));
  }
}

at::Tensor rng_state(int64_t device) {
  at::Generator generator = default_generator(checked(device));
  std::lock_guard lock(generator.mutex());
  return generator.get_state();
}

void set_rng_state(const at::Tensor& state, int64_t device) {
  at::Generator generator = default_generator(checked(device));
  std::lock_guard lock(generator.mutex());
  generator.set_state(state);
}

TORCH_LIBRARY_FRAGMENT(standin, library) {
  library.def("manual_seed_all(int seed) -> ()", &manual_seed_all);
  library.def("rng_state(int device) -> Tensor", &rng_state);
  library.def("set_rng_state(Tensor state, int device) -> ()", &set_rng_state);
}

} // namespace

const at::Generator& default_generator(c10::DeviceIndex device) {
  static const auto& all = *new std::array<at::Generator, kDevices>{
      at::make_generator<GeneratorImpl>(c10::DeviceIndex{0}),
      at::make_generator<GeneratorImpl>(c10::DeviceIndex{1})};
  return all.at(device);
}

at::Generator new_generator(c10::DeviceIndex device) {
  return at::make_generator<GeneratorImpl>(device);
}

at::Generator generator_of_call(
    const std::optional<at::Generator>& given,
    c10::DeviceIndex device) {
  at::Generator generator = given.has_value() && given->defined()
      ? *given
      : default_generator(device);
  std::lock_guard lock(generator.mutex());
  return at::detail::createCPUGenerator(
      generator.get<at::CPUGeneratorImpl>()->random64());
}

} // namespace standin
