#include <function/saved.h>

#include <python/error.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>

namespace torch_ext {

namespace {

using torch::autograd::SavedVariable;

bool is_output(PyObject* outputs, const at::Tensor& tensor) {
  const Py_ssize_t count = PyTuple_GET_SIZE(outputs);
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* output = PyTuple_GET_ITEM(outputs, i);
    if (THPVariable_Check(output) &&
        THPVariable_Unpack(output).is_same(tensor)) {
      return true;
    }
  }
  return false;
}

/// Keeps the storage of the saved variables in place while a hook may run.
class Unpacking {
 public:
  explicit Unpacking(State& state) : state_(state) {
    ++state_.unpacking;
  }
  ~Unpacking() {
    if (--state_.unpacking == 0 && !state_.raw_saved_shown &&
        !state_.retired.empty()) {
      decltype(state_.retired) retired;
      retired.swap(state_.retired);
    }
  }
  Unpacking(const Unpacking&) = delete;
  Unpacking& operator=(const Unpacking&) = delete;

 private:
  State& state_;
};

} // namespace

TensorsToSave::TensorsToSave(State& state, bool executable) {
  tuple_ = Ref::steal(std::exchange(state.base.to_save, nullptr));
  if (!tuple_) {
    return;
  }
  TORCH_CHECK(
      PyTuple_Check(tuple_.get()),
      "autograd internal error: to_save attribute is expected to be a tuple but is ",
      compat::message_end(Py_TYPE(tuple_.get())->tp_name));
  if (!executable) {
    return;
  }
  for (PyObject* const* item = begin(); item != end(); ++item) {
    TORCH_CHECK_TYPE(
        Py_IsNone(*item) || THPVariable_Check(*item),
        "save_for_backward can only save variables, but argument ",
        item - begin(),
        " is of type ",
        Py_TYPE(*item)->tp_name);
  }
}

PyObject* const* TensorsToSave::begin() const {
  return tuple_ ? PySequence_Fast_ITEMS(tuple_.get()) : nullptr;
}

PyObject* const* TensorsToSave::end() const {
  return tuple_ ? begin() + PyTuple_GET_SIZE(tuple_.get()) : nullptr;
}

void TensorsToSave::save(State& state, PyObject* outputs) const {
  if (!tuple_ || begin() == end()) {
    state.maybe_saved.store(false, std::memory_order_release);
    return;
  }
  // Built aside: default pack hooks run Python code, which may look at ctx.
  std::vector<SavedVariable> saved;
  saved.reserve(end() - begin());
  for (PyObject* item : *this) {
    if (Py_IsNone(item)) {
      saved.emplace_back();
      continue;
    }
    const at::Tensor& tensor = THPVariable_Unpack(item);
    saved.emplace_back(tensor, is_output(outputs, tensor));
  }
  drop_saved(state);
  state.base.saved_variables = std::move(saved);
  state.maybe_saved.store(true, std::memory_order_release);
}

Ref unpack_saved(State& state) {
  THPFunction& base = state.base;
  compat::CriticalSection of_ctx(state.object());
  TORCH_CHECK(!state.freed(), torch::autograd::ERR_BACKWARD_TWICE);
  const auto& saved = state.saved_variables();
  const size_t count = saved.size();
  Ref tuple = checked(PyTuple_New(static_cast<Py_ssize_t>(count)));
  Unpacking guard(state);
  for (size_t i = 0; i < count; ++i) {
    // An unpack hook may have run a backward that freed the rest.
    TORCH_CHECK(i < saved.size(), torch::autograd::ERR_BACKWARD_TWICE);
    at::Tensor tensor = saved[i].unpack(compat::node_of(base.cdata));
    PyObject* item = tensor.defined()
        ? checked(THPVariable_Wrap(std::move(tensor))).release()
        : Py_NewRef(Py_None);
    PyTuple_SET_ITEM(tuple.get(), static_cast<Py_ssize_t>(i), item);
  }
  return tuple;
}

PyObject* saved_tensors(State& state) {
  HANDLE_TH_ERRORS
  THPFunction& base = state.base;
  TORCH_CHECK(
      !base.saved_tensors_accessed_and_cleared,
      "saved_tensors can only be accessed once when "
      "clear_saved_tensors_on_access=True is set on the autograd.Function. "
      "Either access saved_tensors only once, or set "
      "clear_saved_tensors_on_access=False.");
  Ref tensors = unpack_saved(state);
  if (base.clear_saved_tensors_on_access) {
    drop_saved(state);
    base.saved_tensors_accessed_and_cleared = true;
  }
  return tensors.release();
  END_HANDLE_TH_ERRORS
}

} // namespace torch_ext
