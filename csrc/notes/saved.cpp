// SPDX-License-Identifier: BSD-3-Clause
#include <notes/saved.h>

#include <compat.h>
#include <notes/node_notes.h>
#include <python/error.h>
#include <python/ref.h>

#include <mutex>

namespace torch_ext {

namespace {

Ref read_one(PyObject* saved) {
  const Ref data = checked(PyObject_GetAttrString(saved, "data"));
  const Ref hook = checked(PyObject_GetAttrString(saved, "unpack_hook"));
  return checked(PyTuple_Pack(2, data.get(), hook.get()));
}

} // namespace

PyObject* py_read_saved(PyObject*, PyObject* args) {
  HANDLE_TH_ERRORS
  PyObject* object = nullptr;
  PyObject* name = nullptr;
  if (PyArg_ParseTuple(args, "OU:read_saved", &object, &name) == 0) {
    return nullptr;
  }
  const compat::NodePtr node = node_of_object(object);
  // torch's attribute would wait for the lock, whose holder may wait for the
  // GIL, or be this thread, in an unpack hook that the node runs.
  if (!node || !std::unique_lock(mutex_of(*node), std::try_to_lock)) {
    Py_RETURN_NONE;
  }
  const Ref saved = checked(PyObject_GetAttr(object, name));
  const std::unique_lock<std::mutex> lock(mutex_of(*node), std::try_to_lock);
  if (!lock.owns_lock()) {
    Py_RETURN_NONE;
  }
  if (!PyTuple_CheckExact(saved.get())) {
    return checked(PyTuple_Pack(1, read_one(saved.get()).get())).release();
  }
  const Py_ssize_t size = PyTuple_GET_SIZE(saved.get());
  Ref result = checked(PyTuple_New(size));
  for (Py_ssize_t i = 0; i < size; ++i) {
    PyTuple_SET_ITEM(
        result.get(), i, read_one(PyTuple_GET_ITEM(saved.get(), i)).release());
  }
  return result.release();
  END_HANDLE_TH_ERRORS
}

} // namespace torch_ext
