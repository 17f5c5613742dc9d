// SPDX-License-Identifier: BSD-3-Clause
#include <python/exit_status.h>

#include <python/error.h>

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace torch_ext {

namespace {

void end_process(int status, void* wanted) {
  if (status == 0) {
    std::fflush(nullptr);
    _exit(static_cast<int>(reinterpret_cast<std::intptr_t>(wanted)));
  }
}

} // namespace

PyObject* py_fail_at_exit(PyObject*, PyObject* status) {
  return to_slot([&] {
    const long wanted = PyLong_AsLong(status);
    if (wanted == -1 && PyErr_Occurred() != nullptr) {
      throw_python_error();
    }
    on_exit(
        end_process,
        reinterpret_cast<void*>(static_cast<std::intptr_t>(wanted)));
    return Ref::share(Py_None);
  });
}

} // namespace torch_ext
