// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <device/stream.h>

#include <c10/core/Allocator.h>

namespace standin {

/// The memory of the devices: host memory that is handed out in the order of
/// streams, counted, and overwritten when it is given back.
c10::Allocator& device_memory();
/// Host memory that streams read from and write to by themselves.
c10::Allocator& pinned_memory();
bool is_pinned(const void* address);

/// A stream that uses the memory, besides the one it was taken on: until it has
/// done what it has got when the memory is given back, nobody else gets it.
void record_use(const c10::DataPtr& data, Stream& stream);
void record_use_of_pinned(const void* address, Stream& stream);

} // namespace standin
