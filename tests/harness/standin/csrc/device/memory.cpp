// SPDX-License-Identifier: BSD-3-Clause
#include <device/memory.h>

#include <device/current.h>

#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <utility>
#include <vector>

namespace standin {

namespace {

using c10::CachingDeviceAllocator::DeviceStats;

constexpr size_t kUnit = 512; // bytes, as on a GPU
constexpr size_t kTotal = size_t{4} << 30; // bytes of a device
// Not a number, no index, and not what a run before this one has left there.
constexpr int kOverwritten = 0xff;

struct Pool;

struct Block {
  Pool* pool;
  void* data;
  size_t size;
  Stream* stream; // on which it was taken; null for the host's
  std::vector<Stream*> users; // further ones
  std::vector<Point> used_until; // by these, once it has been given back
};

/// The blocks of a device, or pinned ones.
struct Pool {
  /// Throws c10::OutOfMemoryError.
  Block* take(size_t bytes, Stream* stream);
  void give_back(Block* block) noexcept;
  void release_unused();
  void add_user(Block* block, Stream& stream);
  /// The block with this address in it; null if it isn't of this pool.
  Block* find(const void* address);

  template <typename Function>
  auto with_stats(Function function) {
    std::lock_guard lock(mutex_);
    return function(stats_);
  }

 private:
  Block* find_free(size_t size, Stream* stream);
  Block* add(size_t size, Stream* stream);
  void make_free(Block* block);
  void make_free_what_is_unused();

  std::mutex mutex_;
  std::map<const void*, std::unique_ptr<Block>> blocks_; // by their ends
  std::multimap<std::pair<Stream*, size_t>, Block*> free_;
  std::vector<Block*> in_use_;
  DeviceStats stats_;
};

c10::CachingAllocator::Stat& all(c10::CachingAllocator::StatArray& stats) {
  return stats[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
}

Block* Pool::take(size_t bytes, Stream* stream) {
  const size_t size = (bytes + kUnit - 1) / kUnit * kUnit;
  std::lock_guard lock(mutex_);
  make_free_what_is_unused();
  Block* block = find_free(size, stream);
  if (block == nullptr) {
    block = add(size, stream);
  }
  all(stats_.allocation).increase(1);
  all(stats_.allocated_bytes).increase(size);
  all(stats_.requested_bytes).increase(bytes);
  return block;
}

/// What was freed on a stream can be used on it at once: its work is in order.
/// The last first, so that a use that comes too late hits soon.
Block* Pool::find_free(size_t size, Stream* stream) {
  const auto [first, end] = free_.equal_range({stream, size});
  if (first == end) {
    return nullptr;
  }
  const auto found = std::prev(end);
  Block* block = found->second;
  free_.erase(found);
  return block;
}

Block* Pool::add(size_t size, Stream* stream) {
  void* data = nullptr;
  const auto reserved = static_cast<size_t>(all(stats_.reserved_bytes).current);
  if (size > kTotal - reserved || posix_memalign(&data, kUnit, size) != 0) {
    ++stats_.num_ooms;
    TORCH_CHECK_WITH(
        OutOfMemoryError,
        false,
        "standin out of memory. Tried to allocate ",
        size,
        " bytes. The device has ",
        kTotal,
        " bytes, of which ",
        reserved,
        " are reserved.");
  }
  std::memset(data, kOverwritten, size);
  all(stats_.reserved_bytes).increase(size);
  auto block = std::make_unique<Block>();
  *block = {this, data, size, stream, {}, {}};
  return (blocks_[static_cast<char*>(data) + size] = std::move(block)).get();
}

void Pool::give_back(Block* block) noexcept {
  std::lock_guard lock(mutex_);
  all(stats_.allocation).decrease(1);
  all(stats_.allocated_bytes).decrease(block->size);
  if (block->users.empty()) {
    make_free(block);
    return;
  }
  for (Stream* user : std::exchange(block->users, {})) {
    block->used_until.push_back(now(*user));
  }
  in_use_.push_back(block);
}

void Pool::make_free(Block* block) {
  auto overwrite = [data = block->data, size = block->size] {
    std::memset(data, kOverwritten, size);
  };
  if (block->stream != nullptr) {
    block->stream->launch_quietly(overwrite);
  } else {
    overwrite();
  }
  free_.emplace(std::pair(block->stream, block->size), block);
}

void Pool::make_free_what_is_unused() {
  const auto unused = std::stable_partition(
      in_use_.begin(), in_use_.end(), [](const Block* block) {
        return !std::all_of(
            block->used_until.begin(),
            block->used_until.end(),
            [](auto& point) { return point.reached(); });
      });
  for (auto each = unused; each != in_use_.end(); ++each) {
    (*each)->used_until.clear();
    make_free(*each);
  }
  in_use_.erase(unused, in_use_.end());
}

void Pool::release_unused() {
  std::lock_guard lock(mutex_);
  make_free_what_is_unused();
  for (const auto& [place, block] : std::exchange(free_, {})) {
    if (block->stream != nullptr) {
      now(*block->stream).wait();
    }
    all(stats_.reserved_bytes).decrease(block->size);
    std::free(block->data);
    blocks_.erase(static_cast<char*>(block->data) + block->size);
  }
}

void Pool::add_user(Block* block, Stream& stream) {
  std::lock_guard lock(mutex_);
  if (&stream != block->stream &&
      std::count(block->users.begin(), block->users.end(), &stream) == 0) {
    block->users.push_back(&stream);
  }
}

Block* Pool::find(const void* address) {
  std::lock_guard lock(mutex_);
  const auto found = blocks_.upper_bound(address);
  return found != blocks_.end() && found->second->data <= address
      ? found->second.get()
      : nullptr;
}

// Never destroyed: tensors may be freed at the very end of the process.
Pool& pool_of(c10::DeviceIndex device) {
  static auto& pools = *new std::array<Pool, kDevices>;
  return pools.at(device);
}

Pool& pinned() {
  static Pool& pool = *new Pool;
  return pool;
}

void give_back(void* block) {
  static_cast<Block*>(block)->pool->give_back(static_cast<Block*>(block));
}

c10::DataPtr owned(Block* block, c10::Device device) {
  return {block->data, block, &give_back, device};
}

struct DeviceMemory final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t bytes) override {
    const auto device = current_device();
    const c10::Device where{kType, device};
    if (bytes == 0) {
      return {nullptr, where};
    }
    return owned(pool_of(device).take(bytes, &current(device)), where);
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return nullptr; // a pointer doesn't say which block it is of
  }
  void copy_data(void* target, const void* source, std::size_t bytes)
      const override {
    current(current_device()).launch([this, target, source, bytes] {
      default_copy_data(target, source, bytes);
    });
  }

  bool initialized() override {
    return true;
  }
  void emptyCache(c10::MempoolId_t) override {
    for (c10::DeviceIndex device = 0; device < kDevices; ++device) {
      pool_of(device).release_unused();
    }
  }
  void recordStream(const c10::DataPtr& data, c10::Stream stream) override {
    record_use(data, stream_of(stream));
  }
  DeviceStats getDeviceStats(c10::DeviceIndex device) override {
    return pool_of(device).with_stats([](DeviceStats& stats) { return stats; });
  }
  void resetAccumulatedStats(c10::DeviceIndex device) override {
    pool_of(device).with_stats([](DeviceStats& stats) {
      all(stats.allocated_bytes).reset_accumulated();
    });
  }
  void resetPeakStats(c10::DeviceIndex device) override {
    pool_of(device).with_stats(
        [](DeviceStats& stats) { all(stats.allocated_bytes).reset_peak(); });
  }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex device) override {
    const auto reserved = pool_of(device).with_stats(
        [](DeviceStats& stats) { return all(stats.reserved_bytes).current; });
    return {kTotal - reserved, kTotal};
  }
};

struct PinnedMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) {
      return {nullptr, c10::kCPU};
    }
    return owned(pinned().take(bytes, nullptr), c10::kCPU);
  }
  void copy_data(void* target, const void* source, std::size_t bytes)
      const override {
    default_copy_data(target, source, bytes);
  }
};

DeviceMemory the_device_memory;
PinnedMemory the_pinned_memory;
REGISTER_ALLOCATOR(kType, &the_device_memory);

} // namespace

c10::Allocator& device_memory() {
  return the_device_memory;
}

c10::Allocator& pinned_memory() {
  return the_pinned_memory;
}

bool is_pinned(const void* address) {
  return pinned().find(address) != nullptr;
}

void record_use(const c10::DataPtr& data, Stream& stream) {
  if (data.get_deleter() == &give_back) {
    auto* block = static_cast<Block*>(data.get_context());
    block->pool->add_user(block, stream);
  }
}

void record_use_of_pinned(const void* address, Stream& stream) {
  if (Block* block = pinned().find(address)) {
    pinned().add_user(block, stream);
  }
}

} // namespace standin
