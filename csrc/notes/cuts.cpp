// SPDX-License-Identifier: BSD-3-Clause
#include <notes/cuts.h>

#include <notes/backward_calls.h>
#include <notes/bounded.h>
#include <notes/changes.h>
#include <notes/lazy_traceback.h>
#include <notes/node_notes.h>
#include <python/error.h>
#include <python/gil.h>
#include <python/tensor.h>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <deque>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <utility>

namespace torch_ext {

namespace {

using torch::autograd::AccumulateGrad;
using torch::autograd::Node;
using WeakStorage = c10::weak_intrusive_ptr<c10::StorageImpl>;

// --- The cuts that are remembered --------------------------------------------

struct Cut {
  std::uint32_t number;
  std::uint32_t made_in; // how many backwards had begun
  std::string name;
  const char* reason;
  Stack stack;
  std::vector<Leaf> leaves;
  bool has_all_leaves;
};

constexpr size_t kMostCuts = 2048;
// A graph that is larger is not walked to its end.
constexpr size_t kMostNodes = 100000;

struct Cuts {
  std::deque<Cut> kept;
  std::uint32_t last = 0;
};

Cuts& cuts() {
  // Never destroyed, since a thread may outlive Python's end.
  static auto* cuts = new Cuts;
  return *cuts;
}

// Guards them on Python without a GIL.
compat::Mutex noting_cuts;

const Cut* find_cut(std::uint32_t number) {
  std::deque<Cut>& kept = cuts().kept;
  if (kept.empty() || number < kept.front().number ||
      number > kept.back().number) {
    return nullptr;
  }
  return &kept[number - kept.front().number];
}

const Leaf& counter_of(const at::Tensor& leaf) {
  return leaf.unsafeGetTensorImpl()->version_counter();
}

/// The leaves that a backward from `nodes` would reach; false if there are too
/// many nodes on the way.
bool walk_to_leaves(
    std::vector<compat::NodePtr> nodes,
    std::vector<Leaf>& leaves) {
  std::unordered_set<Node*> seen;
  for (const compat::NodePtr& node : nodes) {
    seen.insert(node.get());
  }
  while (!nodes.empty()) {
    const compat::NodePtr node = std::move(nodes.back());
    nodes.pop_back();
    if (const auto* leaf = dynamic_cast<AccumulateGrad*>(node.get())) {
      leaves.push_back(counter_of(leaf->variable));
    }
    for (const auto& edge : node->next_edges()) {
      if (edge.function && seen.insert(edge.function.get()).second) {
        if (seen.size() > kMostNodes) {
          return false;
        }
        nodes.push_back(edge.function);
      }
    }
  }
  return true;
}

/// Remembers a cut, and returns its number; 0 if that can't be done.
std::uint32_t note_cut(
    Given& given,
    const std::string& name,
    const char* reason) {
  if (!Py_IsInitialized()) {
    return 0;
  }
  std::vector<Leaf> leaves = std::move(given.leaves);
  const bool has_all = (!given.nodes.empty() || !leaves.empty()) &&
      walk_to_leaves(std::move(given.nodes), leaves);
  Gil gil;
  try {
    Cut cut{
        0,
        backwards_begun(),
        name,
        reason,
        capture_stack(kShortStack),
        std::move(leaves),
        has_all};
    std::optional<Cut> dropped; // after the lock is released
    const compat::Lock lock(noting_cuts);
    cut.number = cuts().last + 1;
    dropped = remember(cuts().kept, std::move(cut), kMostCuts);
    return ++cuts().last;
  } catch (const std::exception&) {
    PyErr_Clear(); // no memory: the cut stays unknown
    return 0;
  }
}

// --- The memory that holds what was cut off ----------------------------------

using Numbers = c10::SmallVector<std::uint32_t, 4>;
constexpr size_t kMostNumbers = 8;
// So many are kept before the dead among them are dropped.
constexpr size_t kFewStorages = 128;

/// Adds those of `more` that are not there, as far as there is room.
template <typename Container>
void add_missing(Container& numbers, const Numbers& more) {
  for (const std::uint32_t number : more) {
    if (numbers.size() < kMostNumbers &&
        std::find(numbers.begin(), numbers.end(), number) == numbers.end()) {
      numbers.push_back(number);
    }
  }
}

/// By which cuts the values in each storage have come.
class CutOff {
 public:
  const Numbers* find(const at::Tensor& tensor) {
    if (storages_.empty() || !tensor.has_storage()) {
      return nullptr;
    }
    const auto it = storages_.find(
        tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl());
    return it == storages_.end() ? nullptr : &it->second.numbers;
  }

  void add(const at::Tensor& tensor, const Numbers& numbers) {
    if (!tensor.has_storage()) {
      return;
    }
    const c10::Storage& storage =
        tensor.unsafeGetTensorImpl()->unsafe_storage();
    if (!storage) {
      return;
    }
    if (storages_.size() >= most_) {
      drop_dead();
    }
    const auto [it, is_new] = storages_.try_emplace(
        storage.unsafeGetStorageImpl(),
        Entry{storage.getWeakStorageImpl(), {}});
    add_missing(it->second.numbers, numbers);
  }

 private:
  struct Entry {
    // While it is there, no other storage gets the same address.
    WeakStorage storage;
    Numbers numbers;
  };

  void drop_dead() {
    for (auto it = storages_.begin(); it != storages_.end();) {
      it = it->second.storage.expired() ? storages_.erase(it) : std::next(it);
    }
    most_ = std::max<size_t>(kFewStorages, 2 * storages_.size());
  }

  std::unordered_map<const c10::StorageImpl*, Entry> storages_;
  size_t most_ = kFewStorages;
};

CutOff& cut_off() {
  thread_local CutOff cut_off;
  return cut_off;
}

// --- Tensors in arguments and results ----------------------------------------

template <typename Visit>
void for_each_tensor(const c10::IValue& value, const Visit& visit) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) {
      visit(value.toTensor());
    }
  } else if (value.isTensorList()) {
    for (const at::Tensor& tensor : value.toTensorVector()) {
      if (tensor.defined()) {
        visit(tensor);
      }
    }
  } else if (value.isList()) { // of tensors that may be missing
    for (const c10::IValue& item : value.toListRef()) {
      for_each_tensor(item, visit);
    }
  }
}

/// The node that made a tensor; null for a leaf. Makes none, as grad_fn of a
/// view that was changed would.
const compat::NodePtr& maker_of(const at::Tensor& tensor) {
  return torch::autograd::impl::get_autograd_meta(tensor)->grad_fn_;
}

const char* reason_of(
    const std::string& name,
    c10::ArrayRef<const c10::IValue> results) {
  if (c10::InferenceMode::is_enabled()) {
    return "inference_mode";
  }
  if (name == "aten::detach" || name == "aten::detach_" ||
      name == "aten::detach_copy") {
    return "detach";
  }
  if (!c10::GradMode::is_enabled()) {
    return "no_grad";
  }
  bool has_tensor = false;
  for (const c10::IValue& result : results) {
    for_each_tensor(result, [&](const at::Tensor&) { has_tensor = true; });
  }
  return has_tensor ? "not differentiable" : "number";
}

} // namespace

Given look_at(c10::ArrayRef<const c10::IValue> arguments) {
  Given given;
  for (const c10::IValue& argument : arguments) {
    for_each_tensor(argument, [&](const at::Tensor& tensor) {
      if (!tensor.requires_grad()) {
        if (const Numbers* numbers = cut_off().find(tensor)) {
          add_missing(given.cuts, *numbers);
        }
        return;
      }
      given.requires_grad = true;
      if (const compat::NodePtr& maker = maker_of(tensor)) {
        given.nodes.push_back(maker);
      } else {
        given.leaves.push_back(counter_of(tensor));
      }
    });
  }
  return given;
}

void follow(
    Given& given,
    c10::ArrayRef<const c10::IValue> results,
    const std::string& name) {
  bool any_requires_grad = false;
  for (const c10::IValue& result : results) {
    for_each_tensor(result, [&](const at::Tensor& tensor) {
      any_requires_grad |= tensor.requires_grad();
    });
  }
  if (given.requires_grad && !any_requires_grad) {
    const std::uint32_t number =
        note_cut(given, name, reason_of(name, results));
    if (number != 0) {
      given.cuts.push_back(number);
    }
  }
  if (given.cuts.empty()) {
    return;
  }
  for (const c10::IValue& result : results) {
    for_each_tensor(result, [&](const at::Tensor& tensor) {
      if (!tensor.requires_grad()) {
        cut_off().add(tensor, given.cuts);
      } else if (const compat::NodePtr& maker = maker_of(tensor)) {
        if (NodeNotes* notes = notes_of(*maker)) {
          add_missing(notes->cuts, given.cuts);
        }
      }
    });
  }
}

void forget_cuts() {
  forget(cuts().kept, noting_cuts);
}

// --- For Python --------------------------------------------------------------

namespace {

Ref to_tuple(const std::uint32_t* numbers, size_t count) {
  Ref tuple = checked(PyTuple_New(static_cast<Py_ssize_t>(count)));
  for (size_t i = 0; i < count; ++i) {
    PyTuple_SET_ITEM(
        tuple.get(),
        static_cast<Py_ssize_t>(i),
        checked(PyLong_FromUnsignedLong(numbers[i])).release());
  }
  return tuple;
}

std::uint32_t to_number(PyObject* object) {
  const unsigned long number = PyLong_AsUnsignedLong(object);
  if (PyErr_Occurred() != nullptr) {
    throw_python_error();
  }
  return static_cast<std::uint32_t>(number);
}

} // namespace

PyObject* py_cuts_of(PyObject*, PyObject* object) {
  HANDLE_TH_ERRORS
  if (THPVariable_Check(object)) {
    const Numbers* numbers = cut_off().find(THPVariable_Unpack(object));
    return numbers == nullptr
        ? PyTuple_New(0)
        : to_tuple(numbers->data(), numbers->size()).release();
  }
  const compat::NodePtr node = node_of_object(object);
  const NodeNotes* notes = node ? notes_of(*node) : nullptr;
  return notes == nullptr
      ? PyTuple_New(0)
      : to_tuple(notes->cuts.data(), notes->cuts.size()).release();
  END_HANDLE_TH_ERRORS
}

PyObject* py_cut(PyObject*, PyObject* number) {
  HANDLE_TH_ERRORS
  const std::uint32_t wanted = to_number(number);
  const compat::Lock lock(noting_cuts);
  const Cut* cut = find_cut(wanted);
  if (cut == nullptr) {
    Py_RETURN_NONE;
  }
  return Py_BuildValue(
      "(ssOO)",
      cut->name.c_str(),
      cut->reason,
      to_traceback(cut->stack).get(),
      cut->has_all_leaves ? Py_True : Py_False);
  END_HANDLE_TH_ERRORS
}

PyObject* py_recent_cuts(PyObject*, PyObject* number) {
  HANDLE_TH_ERRORS
  const std::uint32_t first = to_number(number);
  std::vector<std::uint32_t> numbers;
  const compat::Lock lock(noting_cuts);
  for (const Cut& cut : cuts().kept) {
    if (cut.made_in >= first) {
      numbers.push_back(cut.number);
    }
  }
  return to_tuple(numbers.data(), numbers.size()).release();
  END_HANDLE_TH_ERRORS
}

PyObject* py_cuts_from(PyObject*, PyObject* object) {
  HANDLE_TH_ERRORS
  const Leaf& leaf = counter_of(THPVariable_Unpack(require_tensor(object)));
  std::vector<std::uint32_t> numbers;
  if (!leaf.enabled()) {
    return PyTuple_New(0);
  }
  const compat::Lock lock(noting_cuts);
  for (const Cut& cut : cuts().kept) {
    const auto is_it = [&](const Leaf& each) { return is_same(each, leaf); };
    if (std::any_of(cut.leaves.begin(), cut.leaves.end(), is_it)) {
      numbers.push_back(cut.number);
    }
  }
  return to_tuple(numbers.data(), numbers.size()).release();
  END_HANDLE_TH_ERRORS
}

} // namespace torch_ext
