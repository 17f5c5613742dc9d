// SPDX-License-Identifier: BSD-3-Clause
#include <anomaly/saved_sums.h>

#include <anomaly/evidence.h>
#include <anomaly/finite.h>
#include <anomaly/python_modules.h>
#include <notes/node_notes.h>
#include <python/error.h>
#include <python/gil.h>

#include <ATen/ATen.h>
#include <ATen/DeviceGuard.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/functions/tensor.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/python_variable.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

namespace torch_ext {

namespace {

using torch::autograd::Node;
using torch::autograd::variable_list;

// --- The sum of a tensor -----------------------------------------------------

/// Of the bits of each number in its place. On a device it stays there.
struct Sum {
  std::uint64_t of_memory = 0;
  std::vector<at::Tensor> on_device;
};

std::uint64_t mix(std::uint64_t sum, std::uint64_t bits) {
  sum = (sum ^ bits) * 0x9e3779b97f4a7c15;
  return sum ^ (sum >> 32);
}

std::uint64_t sum_of_bytes(const void* data, size_t size, std::uint64_t sum) {
  const char* at = static_cast<const char*>(data);
  for (; size >= sizeof(std::uint64_t); size -= sizeof(std::uint64_t)) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, at, sizeof(bits));
    sum = mix(sum, bits);
    at += sizeof(bits);
  }
  std::uint64_t rest = size;
  for (; size > 0; --size) {
    rest = rest << 8 | static_cast<unsigned char>(*at++);
  }
  return mix(sum, rest);
}

/// Two sums of the bytes, one of them weighted by their places.
at::Tensor sum_on_device(const at::Tensor& part) {
  const at::Tensor bytes = part.resolve_conj().flatten().view(at::kByte);
  const at::Tensor weights =
      at::arange(bytes.numel(), bytes.options().dtype(at::kInt))
          .remainder_(65521)
          .add_(1);
  return at::stack(
      {bytes.sum(at::kLong), bytes.to(at::kInt).mul_(weights).sum(at::kLong)});
}

/// The dense tensors that a tensor consists of; none if that can't be known.
std::vector<at::Tensor> parts_of(const at::Tensor& tensor) {
  switch (tensor.layout()) {
    case at::kStrided:
      return {tensor};
    case at::kSparse:
      return {tensor._indices(), tensor._values()};
    case at::kSparseCsr:
    case at::kSparseBsr:
      return {tensor.crow_indices(), tensor.col_indices(), tensor.values()};
    case at::kSparseCsc:
    case at::kSparseBsc:
      return {tensor.ccol_indices(), tensor.row_indices(), tensor.values()};
    default:
      return {};
  }
}

/// Whether a dense tensor's values can be summed up, all of them.
bool has_bytes(const at::Tensor& part) {
  return !is_wrapper(part) && !part.is_meta() && !part.is_nested() &&
      !part._is_zerotensor() && is_in_memory(part);
}

/// Nothing if the values can't be read.
std::optional<Sum> sum_of(const at::Tensor& tensor) {
  if (!tensor.defined()) {
    return std::nullopt;
  }
  try {
    const std::vector<at::Tensor> parts = parts_of(tensor);
    Sum sum;
    for (const at::Tensor& part : parts) {
      if (!has_bytes(part)) {
        return std::nullopt;
      }
      const at::OptionalDeviceGuard guard(at::device_of(part));
      const at::Tensor dense = part.contiguous();
      if (dense.is_cpu()) {
        sum.of_memory =
            sum_of_bytes(dense.const_data_ptr(), dense.nbytes(), sum.of_memory);
      } else {
        sum.on_device.push_back(sum_on_device(dense));
      }
    }
    return parts.empty() ? std::nullopt : std::optional(std::move(sum));
  } catch (const c10::Error&) {
    return std::nullopt; // of a kind without these operators
  }
}

bool is_same_sum(const Sum& a, const Sum& b) {
  if (a.of_memory != b.of_memory || a.on_device.size() != b.on_device.size()) {
    return false;
  }
  for (size_t i = 0; i < a.on_device.size(); ++i) {
    if (!at::equal(a.on_device[i], b.on_device[i])) {
      return false;
    }
  }
  return true;
}

// --- The sums of a node ------------------------------------------------------

using Sums = std::vector<std::optional<Sum>>;

/// What a node has saved; of a change of a view, what the operator has.
std::vector<at::Tensor> saved_for(const compat::NodePtr& node) {
  const auto* slices = dynamic_cast<torch::autograd::CopySlices*>(node.get());
  const compat::NodePtr holder =
      slices == nullptr ? node : compat::NodePtr(slices->fn);
  return holder ? saved_by(holder) : std::vector<at::Tensor>();
}

struct Changed {
  at::Tensor tensor;
  size_t index;
  size_t saved;
};

std::optional<Changed> find_changed(Node& node) {
  const NodeNotes* notes = notes_of(node);
  if (notes == nullptr || !notes->saved_sums) {
    return std::nullopt;
  }
  const Sums& before = *static_cast<const Sums*>(notes->saved_sums.get());
  const Aside aside;
  std::vector<at::Tensor> saved;
  try {
    saved = saved_for(node.getptr());
  } catch (const c10::Error&) {
    return std::nullopt; // changed in place, or freed, as torch will say
  }
  for (size_t i = 0; i < saved.size() && saved.size() == before.size(); ++i) {
    const std::optional<Sum>& then = before[i];
    const std::optional<Sum> now = then ? sum_of(saved[i]) : std::nullopt;
    if (then && now && !is_same_sum(*then, *now)) {
      return Changed{saved[i], i, saved.size()};
    }
  }
  return std::nullopt;
}

/// Whether torch changes such a tensor itself, without a new version.
bool is_meant(Node& node, const Changed& changed) {
  Gil gil;
  return persisting([&] {
    Ref module = checked(PyImport_ImportModule(kFailuresModule));
    Ref object = checked(torch::autograd::functionToPyObject(node.getptr()));
    Ref meant = checked(PyObject_CallMethod(
        module.get(),
        "is_changed_by_torch",
        "Onn",
        object.get(),
        static_cast<Py_ssize_t>(changed.index),
        static_cast<Py_ssize_t>(changed.saved)));
    return meant.get() == Py_True;
  });
}

class SavedCheck : public torch::autograd::FunctionPreHook {
 public:
  explicit SavedCheck(Node& node) : node_(node) {}

  variable_list operator()(const variable_list& gradients) override {
    const std::optional<Changed> changed = find_changed(node_);
    if (changed && !is_meant(node_, *changed)) {
      throw std::runtime_error(
          "Function '" + node_.name() +
          "' needs a saved tensor whose values have changed, though its version "
          "has not.");
    }
    return gradients;
  }

  // Compiled autograd doesn't run nodes one by one.
  void compiled_args(
      torch::dynamo::autograd::CompiledNodeArgs& /*args*/) const override {}

 private:
  Node& node_;
};

} // namespace

void remember_saved(const compat::NodePtr& node) {
  NodeNotes* notes = notes_of(*node);
  if (notes == nullptr || notes->saved_sums) {
    return;
  }
  const Aside aside;
  auto sums = std::make_shared<Sums>();
  try {
    for (const at::Tensor& tensor : saved_for(node)) {
      sums->push_back(sum_of(tensor));
    }
  } catch (const c10::Error&) {
    return; // of a kind that can't be unpacked so
  }
  notes->saved_sums = std::move(sums);
}

std::unique_ptr<torch::autograd::FunctionPreHook> make_saved_check(Node& node) {
  return std::make_unique<SavedCheck>(node);
}

PyObject* py_changed_saved(PyObject*, PyObject* object) {
  HANDLE_TH_ERRORS
  const compat::NodePtr node = node_of_object(object);
  const std::optional<Changed> changed =
      node ? find_changed(*node) : std::nullopt;
  if (!changed) {
    Py_RETURN_NONE;
  }
  Ref tensor = checked(THPVariable_Wrap(changed->tensor));
  return Py_BuildValue(
      "(Onn)",
      tensor.get(),
      static_cast<Py_ssize_t>(changed->index),
      static_cast<Py_ssize_t>(changed->saved));
  END_HANDLE_TH_ERRORS
}

} // namespace torch_ext
