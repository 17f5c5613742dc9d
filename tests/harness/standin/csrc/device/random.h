// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Generator.h>
#include <c10/core/Device.h>

#include <optional>

namespace standin {

const at::Generator& default_generator(c10::DeviceIndex device);
at::Generator new_generator(c10::DeviceIndex device);

/// A generator for one call, on any thread: its seed is what `given`, or the
/// device's, gives next. So values depend on the order of calls alone.
at::Generator generator_of_call(
    const std::optional<at::Generator>& given,
    c10::DeviceIndex device);

} // namespace standin
