// SPDX-License-Identifier: BSD-3-Clause
#include <device/late_error.h>

#include <c10/util/Exception.h>

#include <atomic>
#include <exception>
#include <mutex>
#include <string>

namespace standin {

namespace {

std::atomic<bool> failed{false};
std::mutex mutex;
// Never destroyed: other threads may still read it at the end of the process.
std::string& message = *new std::string; // NOLINT: guarded by the mutex

constexpr int kAssert = 710; // CUDA's number for it

void fail(const char* what) {
  std::lock_guard lock(mutex);
  if (!failed.exchange(true)) {
    message = std::string("standin error: device-side assert triggered\n") +
        "A kernel failed earlier: " + what;
  }
}

} // namespace

void run_unless_failed(const std::function<void()>& work) noexcept {
  if (failed) {
    return;
  }
  try {
    work();
  } catch (const c10::Error& error) {
    fail(error.what_without_backtrace());
  } catch (const std::exception& error) {
    fail(error.what());
  }
}

void check_late_error() {
  if (failed) {
    std::lock_guard lock(mutex);
    throw c10::AcceleratorError(
        {__func__, __FILE__, static_cast<uint32_t>(__LINE__)},
        kAssert,
        message);
  }
}

} // namespace standin
