// SPDX-License-Identifier: BSD-3-Clause
#include <device/stream.h>

#include <device/current.h>
#include <device/late_error.h>

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <pthread.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <utility>

namespace standin {

namespace {

// As on a GPU, so much can be launched ahead of what has run.
constexpr size_t kAhead = 1024;
constexpr size_t kStreams = 1 + kPooledStreams;

using AllStreams = std::array<std::array<Stream, kStreams>, kDevices>;

// Threads don't survive a fork.
std::atomic<bool> forked{false};

void stop_all();

AllStreams& streams() {
  // Never destroyed: memory is given back until the very end of the process.
  static AllStreams& all = []() -> AllStreams& {
    // Before the destructors of what torch keeps.
    std::atexit(&stop_all);
    pthread_atfork(nullptr, nullptr, [] { forked = true; });
    return *new AllStreams;
  }();
  return all;
}

void stop_all() {
  if (forked) {
    return;
  }
  for (auto& of_device : streams()) {
    for (Stream& stream : of_device) {
      stream.stop();
    }
  }
}

void check_not_forked() {
  TORCH_CHECK(
      !forked, "Cannot re-initialize standin in forked subprocess: use spawn");
}

bool blocking() {
  static const bool on = [] {
    const char* set = std::getenv("STANDIN_LAUNCH_BLOCKING");
    return set != nullptr && std::strcmp(set, "1") == 0;
  }();
  return on;
}

} // namespace

uint64_t Stream::launch(Work work) {
  check_not_forked();
  check_late_error();
  const uint64_t number = launch_quietly(std::move(work));
  if (blocking()) {
    wait(number);
    check_late_error();
  }
  return number;
}

uint64_t Stream::launch_quietly(Work work) noexcept {
  if (forked) {
    return done_;
  }
  std::unique_lock lock(mutex_);
  if (stopping_) {
    return done_;
  }
  if (works_.size() >= kAhead) {
    want(launched_ - kAhead / 2);
    changed_.wait(lock, [this] { return works_.size() < kAhead; });
  }
  works_.push_back(std::move(work));
  return ++launched_;
}

uint64_t Stream::last() {
  std::lock_guard lock(mutex_);
  return launched_;
}

void Stream::wait(uint64_t number) {
  check_not_forked();
  std::unique_lock lock(mutex_);
  want(number);
  changed_.wait(lock, [&] { return done_ >= number || stopping_; });
}

bool Stream::has_run(uint64_t number) {
  std::lock_guard lock(mutex_);
  want(number);
  return done_ >= number;
}

void Stream::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) {
    thread_.join();
  }
}

/// With the mutex held.
void Stream::want(uint64_t number) {
  if (number <= wanted_ || stopping_) {
    return;
  }
  wanted_ = number;
  if (!thread_.joinable()) {
    thread_ = std::thread(&Stream::serve, this);
  }
  changed_.notify_all();
}

void Stream::serve() {
  at::init_num_threads();
  BelowAutograd below;
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return done_ < wanted_ || stopping_; });
    if (stopping_) {
      return;
    }
    Work work = std::move(works_.front());
    works_.pop_front();
    lock.unlock();
    run_unless_failed(work);
    work = nullptr; // what it has kept is released before it counts as done
    lock.lock();
    ++done_;
    changed_.notify_all();
  }
}

Stream& stream_of(const c10::Stream& handle) {
  return streams().at(handle.device_index()).at(handle.id());
}

void order(Stream& earlier, Stream& later) {
  if (&earlier != &later) {
    later.launch([point = now(earlier)] { point.wait(); });
  }
}

void wait_for_device(c10::DeviceIndex device) {
  for (Stream& stream : streams().at(device)) {
    now(stream).wait();
  }
}

} // namespace standin
