// SPDX-License-Identifier: BSD-3-Clause
// Which operator changed a tensor in place, and where it was called.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/python_headers.h>

#include <cstdint>
#include <string>

namespace torch_ext {

/// The counter of a tensor's versions, which it shares with its views, and the
/// version before something that may change it. Keeps no tensor alive.
struct VersionBefore {
  c10::VariableVersion counter;
  std::uint32_t version;
};

/// Whether two are one counter.
bool is_same(const c10::VariableVersion& a, const c10::VariableVersion& b);

/// Notes that `name`, which this thread is running, has changed a tensor.
void note_change(const VersionBefore& before, const std::string& name);

/// Counts one more version of `tensor`, as torch's bump_version() does, because
/// `name` has changed it. Noted in anomaly mode.
void bump_version(const at::Tensor& tensor, const char* name);

/// Forgets all that is noted. Needs the GIL.
void forget_changes();

/// changes_of(tensor, version): what is known to have changed the tensor, or
/// what shares its memory and its versions, since it had that version: a list
/// of (name, version before, version after, stack), in order.
PyObject* py_changes_of(PyObject* module, PyObject* args);

} // namespace torch_ext
