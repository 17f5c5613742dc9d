// SPDX-License-Identifier: BSD-3-Clause
#include <function/ctx/saved.h>

#include <cpp/private_member.h>
#include <python/error.h>
#include <python/tensor.h>
#include <python/tuple.h>

#include <algorithm>
#include <string_view>
#include <typeinfo>
#include <utility>

namespace torch_ext {

namespace {

using compat::PythonHooks;
using torch::autograd::SavedVariable;
using torch::autograd::SavedVariableHooks;

bool is_output(c10::ArrayRef<Ref> outputs, const at::Tensor& tensor) {
  return std::any_of(outputs.begin(), outputs.end(), [&](const Ref& output) {
    return has_tensor_type(output.get()) &&
        THPVariable_Unpack(output.get()).is_same(tensor);
  });
}

/// Keeps the storage of the saved variables in place while an unpack hook runs.
///
/// The hook may drop the saved variables, by a backward of its own say, while the
/// SavedVariable whose unpack() called it is still in use. So drop_saved() retires
/// the vector instead of destroying it, and the last Unpacking destroys what is
/// retired. If Python code was given the saved variables themselves, by
/// _raw_saved_tensors, they stay until the ctx dies.
class Unpacking {
 public:
  explicit Unpacking(Ctx& ctx) : ctx_(ctx) {
    ++ctx_.unpacking;
  }
  ~Unpacking() {
    if (--ctx_.unpacking == 0 && !ctx_.raw_saved_shown && ctx_.aside) {
      // Moved out first: what a tensor's end runs may look at this ctx.
      std::exchange(ctx_.aside->retired, {});
    }
  }
  Unpacking(const Unpacking&) = delete;
  Unpacking& operator=(const Unpacking&) = delete;

 private:
  Ctx& ctx_;
};

struct Data : MemberOf<SavedVariable> {};
struct Hooks : MemberOf<SavedVariable> {};
struct PackHook : MemberOf<PythonHooks> {};
struct UnpackHook : MemberOf<PythonHooks> {};
struct Packed : MemberOf<PythonHooks> {};
auto& private_member(Data, SavedVariable& saved);
auto& private_member(Hooks, SavedVariable& saved);
auto& private_member(PackHook, PythonHooks& hooks);
auto& private_member(UnpackHook, PythonHooks& hooks);
auto& private_member(Packed, PythonHooks& hooks);
template struct PrivateMember<Data, &SavedVariable::data_>;
template struct PrivateMember<Hooks, &SavedVariable::hooks_>;
template struct PrivateMember<PackHook, &PythonHooks::pack_hook_>;
template struct PrivateMember<UnpackHook, &PythonHooks::unpack_hook_>;
template struct PrivateMember<Packed, &PythonHooks::data_>;

/// The hooks of a saved variable, if torch's Python code made them; null
/// otherwise. torch doesn't export their type, which a dynamic_cast would need,
/// so its name is compared.
PythonHooks* python_hooks(SavedVariable& saved) {
  SavedVariableHooks* hooks = private_member(Hooks(), saved).get();
  return hooks != nullptr &&
          typeid(*hooks).name() ==
              std::string_view("N5torch8autograd20PySavedVariableHooksE")
      ? static_cast<PythonHooks*>(hooks)
      : nullptr;
}

} // namespace

at::Tensor& data_of(SavedVariable& saved) {
  return private_member(Data(), saved);
}

int traverse_hooks(SavedVariable& saved, visitproc visit, void* arg) {
  if (PythonHooks* hooks = python_hooks(saved)) {
    Py_VISIT(compat::object_in(private_member(PackHook(), *hooks)));
    Py_VISIT(compat::object_in(private_member(UnpackHook(), *hooks)));
    Py_VISIT(compat::object_in(private_member(Packed(), *hooks)));
  }
  return 0;
}

TensorsToSave::TensorsToSave(Ctx& ctx, bool executable) {
  tuple_ = Ref::steal(std::exchange(ctx.base.to_save, nullptr));
  if (!tuple_) {
    return;
  }
  TORCH_CHECK(
      PyTuple_Check(tuple_.get()),
      "autograd internal error: to_save attribute is expected to be a tuple "
      "but is ",
      compat::message_end(Py_TYPE(tuple_.get())->tp_name));
  if (!executable) {
    return;
  }
  for (PyObject* const* item = begin(); item != end(); ++item) {
    TORCH_CHECK_TYPE(
        Py_IsNone(*item) || is_real_tensor(*item),
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

void TensorsToSave::save(Ctx& ctx, c10::ArrayRef<Ref> outputs) const {
  if (!tuple_ || begin() == end()) {
    ctx.maybe_saved.store(false, std::memory_order_release);
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
  drop_saved(ctx);
  ctx.base.saved_variables = std::move(saved);
  ctx.maybe_saved.store(true, std::memory_order_release);
}

Ref unpack_saved(Ctx& ctx) {
  THPFunction& base = ctx.base;
  compat::CriticalSection of_ctx(ctx.object());
  TORCH_CHECK(!ctx.freed(), torch::autograd::ERR_BACKWARD_TWICE);
  const auto& saved = ctx.saved_variables();
  const Unpacking guard(ctx);
  return tuple_of(saved.size(), [&](size_t i) {
    // An unpack hook may have run a backward that freed the rest.
    TORCH_CHECK(i < saved.size(), torch::autograd::ERR_BACKWARD_TWICE);
    at::Tensor tensor = saved[i].unpack(compat::node_of(base.cdata));
    return tensor.defined() ? checked(THPVariable_Wrap(std::move(tensor)))
                            : Ref::share(Py_None);
  });
}

Ref saved_tensors(Ctx& ctx) {
  THPFunction& base = ctx.base;
  TORCH_CHECK(
      !base.saved_tensors_accessed_and_cleared,
      "saved_tensors can only be accessed once when "
      "clear_saved_tensors_on_access=True is set on the autograd.Function. "
      "Either access saved_tensors only once, or set "
      "clear_saved_tensors_on_access=False.");
  Ref tensors = unpack_saved(ctx);
  if (base.clear_saved_tensors_on_access) {
    drop_saved(ctx);
    base.saved_tensors_accessed_and_cleared = true;
  }
  return tensors;
}

void drop_saved(Ctx& ctx) {
  // Moved out first: what a tensor's end runs may look at this ctx.
  std::vector<SavedVariable> saved;
  compat::CriticalSection of_ctx(ctx.object());
  saved.swap(ctx.saved_variables());
  ctx.maybe_saved.store(false, std::memory_order_release);
  if (ctx.unpacking == 0) {
    for (auto& variable : saved) {
      variable = SavedVariable();
    }
  }
  if (ctx.unpacking != 0 || ctx.raw_saved_shown) {
    ctx.saved_aside().retired.push_back(std::move(saved));
  }
}

std::vector<SavedVariable>& Ctx::saved_variables() {
  auto& saved = base.saved_variables;
  if (!aside) {
    return saved;
  }
  std::vector<Ref> tensors = std::exchange(aside->lent, {});
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i]) {
      data_of(saved[i]) = THPVariable_Unpack(tensors[i].get());
    }
  }
  return saved;
}

} // namespace torch_ext
