// SPDX-License-Identifier: BSD-3-Clause
#include <function/ctx/sole_owner.h>

#include <python/tensor.h>

#include <c10/util/SmallVector.h>
#include <torch/csrc/autograd/variable.h>

#include <cstddef>

namespace torch_ext {

namespace {

using compat::NodePtr;

/// What the search may take for each ctx, so that a collection stays quick.
/// What has more references than these is taken to be in use elsewhere.
constexpr size_t kMostObjects = 64;
constexpr size_t kMostHeld = 64;
constexpr Py_ssize_t kMostReferences = 4;

/// An object that the ctx owns, perhaps with others.
struct Owned {
  PyObject* object;
  /// References to it that nothing in the search has.
  Py_ssize_t unexplained;
  /// Whether it belongs to something outside too.
  bool shared;
};

/// A node, or a tensor without a Python object, that something in C++ holds.
struct Held {
  const void* target;
  /// How many of its holders the ctx alone owns.
  size_t holders;
};

/// Finds what the ctx alone owns. It does with Python's objects what the
/// collector does: it counts for each the references that come from the others,
/// and leaves out what has more, with all that this leads to. C++ is looked at
/// only in what is left, and a node or tensor there only when all its holders
/// have been found. All else may change or die while it is read, since other
/// threads need no GIL for it.
class Search {
 public:
  explicit Search(PyObject* ctx)
      : ctx_(ctx), cdata_(reinterpret_cast<THPFunction*>(ctx)->cdata) {}

  bool owns_all_holders() {
    const size_t expected = compat::other_holders(cdata_);
    if (expected == 0 || !find_objects()) {
      return false;
    }
    do {
      held_.clear();
      more_explained_ = shown_by_torch_ = false;
      leave_out_shared();
      for (size_t i = 0; i < owned_.size(); ++i) {
        if (!owned_[i].shared) {
          follow_object(owned_[i].object);
        }
      }
    } while (more_explained_);
    return holders_of(compat::owned_node(cdata_)) == expected &&
        !(expected == 1 && shown_by_torch_);
  }

  /// Counts a reference to `child`.
  static int count(PyObject* child, void* arg) {
    auto& search = *static_cast<Search*>(arg);
    if (child == search.ctx_ || !PyObject_IS_GC(child) || PyType_Check(child) ||
        search.references_to(child) > kMostReferences) {
      return 0;
    }
    Owned* owned = search.find(child);
    if (owned == nullptr) {
      if (search.owned_.size() == kMostObjects) {
        return 1;
      }
      search.owned_.push_back({child, search.references_to(child), false});
      owned = &search.owned_.back();
    }
    --owned->unexplained;
    return 0;
  }

  /// Marks `child` as shared.
  static int mark(PyObject* child, void* arg) {
    auto& search = *static_cast<Search*>(arg);
    Owned* owned = search.find(child);
    if (owned != nullptr && !owned->shared) {
      owned->shared = true;
      search.to_mark_.push_back(child);
    }
    return 0;
  }

 private:
  int visit_children(PyObject* object, visitproc visit) {
    const traverseproc traverse = Py_TYPE(object)->tp_traverse;
    return traverse == nullptr ? 0 : traverse(object, visit, this);
  }

  Py_ssize_t references_to(PyObject* object) const {
    return compat::references_in_collection(object, ctx_);
  }

  Owned* find(PyObject* object) {
    for (Owned& owned : owned_) {
      if (owned.object == object) {
        return &owned;
      }
    }
    return nullptr;
  }

  /// Whether the ctx alone owns `object`.
  bool is_owned(PyObject* object) {
    const Owned* owned = find(object);
    return owned != nullptr && !owned->shared;
  }

  /// False if there are too many.
  bool find_objects() {
    if (visit_children(ctx_, count) != 0) {
      return false;
    }
    for (size_t i = 0; i < owned_.size(); ++i) {
      if (visit_children(owned_[i].object, count) != 0) {
        return false;
      }
    }
    return !owned_.empty();
  }

  void leave_out_shared() {
    for (Owned& owned : owned_) {
      owned.shared = owned.unexplained != 0;
      if (owned.shared) {
        to_mark_.push_back(owned.object);
      }
    }
    while (!to_mark_.empty()) {
      visit_children(to_mark_.pop_back_val(), mark);
    }
  }

  void follow_object(PyObject* object) {
    if (has_tensor_type(object)) {
      // Undefined if the collector has cleared it before.
      if (const auto& tensor = THPVariable_Unpack(object); tensor.defined()) {
        follow_tensor(tensor);
      }
    } else if (PyObject_TypeCheck(object, &THPFunctionType)) {
      const auto& cdata = reinterpret_cast<THPFunction*>(object)->cdata;
      // If there are other holders, the node is followed from these.
      if (compat::other_holders(cdata) == 0) {
        if (const auto* node = compat::owned_node(cdata)) {
          follow_edges(*node);
        }
      }
    }
  }

  void follow_tensor(const at::Tensor& tensor) {
    const auto* meta = torch::autograd::impl::get_autograd_meta(tensor);
    if (meta == nullptr) {
      return;
    }
    // torch shows the node of such a tensor, if nothing else holds the node.
    shown_by_torch_ |= tensor.use_count() == 1 &&
        meta->grad_fn_.get() == compat::owned_node(cdata_);
    follow_node(meta->grad_fn_);
    if (meta->is_view_) {
      follow_base(
          static_cast<const torch::autograd::DifferentiableViewMeta&>(*meta));
    }
  }

  /// A view holds its base in C++.
  void follow_base(const torch::autograd::DifferentiableViewMeta& view) {
    // A base for derivatives forward may be held a second time.
    if (!view.has_bw_view() ||
        (view.has_fw_view() && !view.shared_view_info())) {
      return;
    }
    const at::Tensor& base = view.get_backward_view().base_;
    const auto* impl = base.unsafeGetTensorImpl();
    PyObject* object = impl->pyobj_slot()->load_pyobj();
    if (!all_holders_found(impl, base.use_count(), object)) {
      return;
    }
    // The views have one reference to the Python object.
    Owned* owned = object != nullptr ? find(object) : nullptr;
    if (owned == nullptr) {
      if (object == nullptr || references_to(object) == 1) {
        follow_tensor(base);
      }
    } else if (owned->unexplained == 1) {
      owned->unexplained = 0;
      more_explained_ = true;
    }
  }

  /// `node`, as something that the ctx alone owns holds it.
  void follow_node(const NodePtr& node) {
    if (!node) {
      return;
    }
    PyObject* object = compat::object_of(*node);
    if (all_holders_found(node.get(), node.use_count(), object) &&
        node.get() != compat::owned_node(cdata_) &&
        (object == nullptr || references_to(object) == 1 || is_owned(object))) {
      follow_edges(*node);
    }
  }

  /// Counts a holder of `target`; whether it was the last one. One of all the
  /// holders is the Python object, if there is one.
  bool all_holders_found(
      const void* target,
      size_t all,
      const PyObject* object) {
    for (Held& held : held_) {
      if (held.target == target) {
        return ++held.holders == all - (object != nullptr ? 1 : 0);
      }
    }
    if (held_.size() == kMostHeld) {
      return false;
    }
    held_.push_back({target, 1});
    return all == (object != nullptr ? 2 : 1);
  }

  size_t holders_of(const void* target) const {
    for (const Held& held : held_) {
      if (held.target == target) {
        return held.holders;
      }
    }
    return 0;
  }

  void follow_edges(const torch::autograd::Node& node) {
    for (const auto& edge : node.next_edges()) {
      follow_node(edge.function);
    }
  }

  PyObject* ctx_;
  const compat::NodeOfCtx& cdata_;
  c10::SmallVector<Owned, kMostObjects> owned_;
  c10::SmallVector<PyObject*, kMostObjects> to_mark_;
  c10::SmallVector<Held, kMostHeld> held_;
  /// Whether a reference from C++ has been explained, so that more may be left.
  bool more_explained_ = false;
  bool shown_by_torch_ = false;
};

} // namespace

bool owns_itself(PyObject* ctx) {
  return Search(ctx).owns_all_holders();
}

bool is_search(visitproc visit) {
  return visit == Search::count || visit == Search::mark;
}

} // namespace torch_ext
