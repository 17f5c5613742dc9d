// SPDX-License-Identifier: BSD-3-Clause
#include <python/exit_status.h>

#include <python/error.h>

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace torch_ext {

namespace {

std::atomic<int> wanted_status = 0;

void end_process(int status, void* /*arg*/) {
  if (status == 0) {
    std::fflush(nullptr);
    _exit(wanted_status);
  }
}

} // namespace

PyObject* py_fail_at_exit(PyObject*, PyObject* status) {
  return to_slot([&] {
    const long wanted = PyLong_AsLong(status);
    if (wanted == -1 && PyErr_Occurred() != nullptr) {
      throw_python_error();
    }
    wanted_status = static_cast<int>(wanted);
    on_exit(end_process, nullptr);
    return Ref::share(Py_None);
  });
}

} // namespace torch_ext
