// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/Stream.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace standin {

inline constexpr c10::DeviceIndex kDevices = 2;

/// Work that runs in order on a thread of its own, and as late as it may: only
/// once somebody waits for it, or asks whether it has run. So what isn't waited
/// for has not run yet, each time. The thread never takes the GIL.
class Stream {
 public:
  using Work = std::function<void()>;
  Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  /// Returns the work's number. Throws a late error that the device has.
  uint64_t launch(Work work);
  /// The same where nothing may be thrown: after a late error nothing runs.
  uint64_t launch_quietly(Work work) noexcept;
  /// The number of the last work that was launched.
  uint64_t last();
  /// Returns once the work with this number has run. Releases no GIL.
  void wait(uint64_t number);
  /// Whether it has run; if not, it will by and by.
  bool has_run(uint64_t number);
  /// Ends the thread. What nobody has waited for doesn't run.
  void stop();

 private:
  void want(uint64_t number);
  void serve();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Work> works_;
  uint64_t launched_ = 0, wanted_ = 0, done_ = 0;
  std::thread thread_;
  bool stopping_ = false;
};

/// What had been launched on a stream by some time.
struct Point {
  Stream* stream = nullptr;
  uint64_t number = 0;

  void wait() const {
    if (stream != nullptr) {
      stream->wait(number);
    }
  }
  bool reached() const {
    return stream == nullptr || stream->has_run(number);
  }
};

inline Point now(Stream& stream) {
  return {&stream, stream.last()};
}

/// The stream that torch knows by this handle.
Stream& stream_of(const c10::Stream& handle);

/// Has `later` wait for what has been launched on `earlier` by now.
void order(Stream& earlier, Stream& later);

/// Returns once all that was launched on any stream of the device has run.
void wait_for_device(c10::DeviceIndex device);

} // namespace standin
