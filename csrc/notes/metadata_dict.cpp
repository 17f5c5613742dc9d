// SPDX-License-Identifier: BSD-3-Clause
#include <notes/metadata_dict.h>

#include <compat.h>
#include <python/error.h>
#include <python/gil.h>
#include <python/immortal.h>

#include <torch/csrc/autograd/python_anomaly_mode.h>

#include <atomic>
#include <cstddef>
#include <utility>

namespace torch_ext {

namespace {

Immortal fx_traceback; // the module torch.fx.traceback
Immortal fx_globals; // its dict
Immortal preserves_node_meta; // the name of a flag in it
Immortal trace_key; // ANOMALY_TRACE_KEY

/// The stack that an fx tracer wants its graph to show in place of the real
/// one; null unless torch.fx.traceback is preserving stacks.
Ref preserved_stack() {
  PyObject* module = fx_traceback;
  Ref preserves = find_item(fx_globals, preserves_node_meta);
  if (!preserves) {
    preserves = checked(PyObject_GetAttr(module, preserves_node_meta));
  }
  const int is_true = PyObject_IsTrue(preserves.get());
  check_status(is_true);
  return is_true != 0
      ? checked(PyObject_CallMethod(module, "format_stack", nullptr))
      : Ref();
}

PyObject* as_object(LazyTraceback* traceback) {
  return reinterpret_cast<PyObject*>(traceback);
}

void drop(MetadataDict metadata) {
  Py_XDECREF(metadata.dict);
  Py_XDECREF(as_object(metadata.traceback));
}

/// A list of dicts with their tracebacks, which are its links.
struct Chain {
  LazyTraceback* first = nullptr;
  std::size_t size = 0;

  void push(MetadataDict metadata) {
    metadata.traceback->dict = metadata.dict;
    metadata.traceback->next = std::exchange(first, metadata.traceback);
    ++size;
  }
  MetadataDict pop() {
    LazyTraceback* taken = std::exchange(first, first->next);
    --size;
    return {std::exchange(taken->dict, nullptr), taken};
  }
};

/// What can be used again. Guarded by the GIL; Python without one uses nothing
/// again, since there the last owner of an object can't be told.
constexpr std::size_t kMostReady = 1024;
Chain ready;

/// What was given back without the GIL, until somebody has it. A stack without a
/// lock, since a fork may happen while another thread gives something back.
constexpr std::size_t kMostReturned = 64;
std::atomic<LazyTraceback*> returned = nullptr;
std::atomic<std::size_t> returned_count = 0;

/// Whether nobody has seen the dict, or what has been put into it was taken out
/// again. Without the GIL it may be wrong, if somebody has it just now.
bool seems_untouched(const MetadataDict& metadata) {
  return Py_REFCNT(metadata.dict) == 1 && PyDict_GET_SIZE(metadata.dict) == 1 &&
      Py_REFCNT(as_object(metadata.traceback)) == 2 &&
      !metadata.traceback->is_filled();
}

/// The same for certain. Needs the GIL.
bool is_untouched(const MetadataDict& metadata) {
  if (!seems_untouched(metadata)) {
    return false;
  }
  PyObject* item = PyDict_GetItemWithError(metadata.dict, trace_key);
  if (item == nullptr) {
    PyErr_Clear();
  }
  return item == as_object(metadata.traceback);
}

/// Lets go of the stack, and makes the rest ready. Needs the GIL. What is dropped
/// may run any code, also such as comes here.
void make_ready(MetadataDict metadata) {
  const Stack dropped = std::exchange(metadata.traceback->stack, {});
  if (ready.size < kMostReady) {
    ready.push(metadata);
  } else {
    drop(metadata);
  }
}

/// The same for all that was given back. Needs the GIL.
void take_returned() {
  LazyTraceback* next = returned.exchange(nullptr, std::memory_order_acquire);
  returned_count.store(0, std::memory_order_relaxed);
  while (next != nullptr) {
    LazyTraceback* traceback = std::exchange(next, next->next);
    make_ready({std::exchange(traceback->dict, nullptr), traceback});
  }
}

int py_take_returned(void* /*unused*/) {
  take_returned();
  return 0;
}

/// Keeps it until somebody has the GIL. Called without.
void put_aside(MetadataDict metadata) {
  LazyTraceback* traceback = metadata.traceback;
  traceback->dict = metadata.dict;
  LazyTraceback* head = returned.load(std::memory_order_relaxed);
  do {
    traceback->next = head;
  } while (!returned.compare_exchange_weak(
      head, traceback, std::memory_order_release, std::memory_order_relaxed));
  // The main thread looks at it soon, so that nothing outlives its node for
  // long. If it is busy elsewhere, not too many may wait for it.
  const bool is_told =
      head != nullptr || Py_AddPendingCall(py_take_returned, nullptr) == 0;
  const std::size_t before =
      returned_count.fetch_add(1, std::memory_order_relaxed);
  if (!is_told || before >= kMostReturned) {
    const Gil gil;
    take_returned();
  }
}

/// One that can be used again; none if there is none. Needs the GIL.
MetadataDict take_ready() {
  if (ready.size == 0) {
    take_returned();
  }
  while (ready.size != 0) {
    const MetadataDict metadata = ready.pop();
    if (is_untouched(metadata)) {
      return metadata;
    }
    drop(metadata); // somebody has found it among the collector's objects
  }
  return {};
}

} // namespace

MetadataDict make_dict_with_stack() {
  if (Ref preserved = preserved_stack()) {
    Ref dict = checked(PyDict_New());
    check_status(PyDict_SetItem(dict.get(), trace_key, preserved.get()));
    return {dict.release(), nullptr};
  }
  Stack stack = capture_stack();
  if (const MetadataDict metadata = take_ready(); metadata.dict != nullptr) {
    metadata.traceback->stack = std::move(stack);
    return metadata;
  }
  Ref dict = checked(PyDict_New());
  Ref traceback = to_traceback(std::move(stack));
  check_status(PyDict_SetItem(dict.get(), trace_key, traceback.get()));
  return {dict.release(), as_lazy(traceback.release())};
}

Ref put_stack(PyObject* dict) {
  if (Ref preserved = preserved_stack()) {
    check_status(PyDict_SetItem(dict, trace_key, preserved.get()));
    return {};
  }
  Ref traceback = to_traceback(capture_stack());
  check_status(PyDict_SetItem(dict, trace_key, traceback.get()));
  return traceback;
}

void give_back(MetadataDict metadata) noexcept {
  if (Py_IsInitialized() == 0) {
    return; // there is nothing left to give it to
  }
  const bool can_wait = !compat::kFreeThreaded &&
      metadata.traceback != nullptr && seems_untouched(metadata);
  if (can_wait && !has_gil()) {
    put_aside(metadata);
    return;
  }
  const Gil gil;
  if (can_wait) {
    make_ready(metadata);
  } else {
    drop(metadata);
  }
}

void init_metadata_dict() {
  TORCH_CHECK(
      compat::finds_dict(),
      "torch_ext: this torch keeps the dict of a node's metadata elsewhere than "
      "its headers say");
  preserves_node_meta.set(
      checked(PyUnicode_InternFromString("should_preserve_node_meta")));
  trace_key.set(checked(PyUnicode_InternFromString(
      torch::autograd::PyAnomalyMetadata::ANOMALY_TRACE_KEY)));
  fx_traceback.set(checked(PyImport_ImportModule("torch.fx.traceback")));
  fx_globals.set(checked(PyObject_GetAttrString(fx_traceback, "__dict__")));
}

} // namespace torch_ext
