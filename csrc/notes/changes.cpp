// SPDX-License-Identifier: BSD-3-Clause
#include <notes/changes.h>

#include <compat.h>
#include <notes/bounded.h>
#include <notes/lazy_traceback.h>
#include <notes/operators.h>
#include <python/error.h>
#include <python/gil.h>
#include <python/tensor.h>

#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

namespace torch_ext {

namespace {

struct Change {
  c10::VariableVersion counter;
  std::uint32_t before;
  std::uint32_t after;
  std::string name;
  Stack stack;
};

constexpr size_t kMostChanges = 16384;

std::deque<Change>& changes() {
  // Never destroyed, since a thread may outlive Python's end.
  static auto* changes = new std::deque<Change>;
  return *changes;
}

// Guards it on Python without a GIL.
compat::Mutex noting_changes;

Ref to_tuple(const Change& change) {
  return checked(Py_BuildValue(
      "(sIIO)",
      change.name.c_str(),
      change.before,
      change.after,
      to_traceback(change.stack).get()));
}

/// Those of a counter since a version, without what a larger one consists of,
/// in order.
std::vector<const Change*> find_changes(
    const c10::VariableVersion& counter,
    std::uint32_t version) {
  std::vector<const Change*> found;
  // The larger one was noted later, at its end.
  std::uint32_t from = UINT32_MAX;
  for (auto it = changes().rbegin(); it != changes().rend(); ++it) {
    if (is_same(it->counter, counter) && it->after > version &&
        it->after <= from) {
      found.push_back(&*it);
      from = it->before;
    }
  }
  std::reverse(found.begin(), found.end());
  return found;
}

} // namespace

bool is_same(const c10::VariableVersion& a, const c10::VariableVersion& b) {
  // They are a pointer each, that torch keeps to itself.
  static_assert(sizeof(a) == sizeof(void*));
  return *reinterpret_cast<void* const*>(&a) ==
      *reinterpret_cast<void* const*>(&b);
}

void note_change(const VersionBefore& before, const std::string& name) {
  const std::uint32_t now = before.counter.current_version();
  if (now == before.version || !Py_IsInitialized()) {
    return;
  }
  Gil gil;
  try {
    Change change{
        before.counter, before.version, now, name, capture_stack(kShortStack)};
    std::optional<Change> dropped; // after the lock is released
    const compat::Lock lock(noting_changes);
    dropped = remember(changes(), std::move(change), kMostChanges);
  } catch (const std::exception&) {
    PyErr_Clear(); // no memory: the change stays unknown
  }
}

void bump_version(const at::Tensor& tensor, const char* name) {
  if (!observes_operators() || !torch::autograd::AnomalyMode::is_enabled()) {
    torch::autograd::impl::bump_version(tensor);
    return;
  }
  const auto& counter = tensor.unsafeGetTensorImpl()->version_counter();
  const VersionBefore before{
      counter, counter.enabled() ? counter.current_version() : 0};
  torch::autograd::impl::bump_version(tensor);
  if (counter.enabled()) {
    note_change(before, name);
  }
}

void forget_changes() {
  forget(changes(), noting_changes);
}

PyObject* py_changes_of(PyObject*, PyObject* args) {
  HANDLE_TH_ERRORS
  PyObject* object = nullptr;
  unsigned int version = 0;
  if (!PyArg_ParseTuple(args, "OI", &object, &version)) {
    return nullptr;
  }
  const at::Tensor& tensor = THPVariable_Unpack(require_tensor(object));
  const auto& counter = tensor.unsafeGetTensorImpl()->version_counter();
  Ref list = checked(PyList_New(0));
  if (!counter.enabled()) {
    return list.release();
  }
  const compat::Lock lock(noting_changes);
  for (const Change* change : find_changes(counter, version)) {
    check_status(PyList_Append(list.get(), to_tuple(*change).get()));
  }
  return list.release();
  END_HANDLE_TH_ERRORS
}

} // namespace torch_ext
