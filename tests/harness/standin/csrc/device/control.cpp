// SPDX-License-Identifier: BSD-3-Clause
// What only tests ask for.
#include <device/current.h>

#include <torch/library.h>

#include <chrono>
#include <thread>

namespace standin {

namespace {

void sleep(int64_t milliseconds) {
  current(current_device()).launch([milliseconds] {
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
  });
}

TORCH_LIBRARY_FRAGMENT(standin, library) {
  library.def("sleep(int milliseconds) -> ()", &sleep);
  library.def("set_sync_debug_mode(int mode) -> ()", &set_sync_debug_mode);
}

} // namespace

} // namespace standin
