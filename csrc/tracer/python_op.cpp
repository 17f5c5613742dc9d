// SPDX-License-Identifier: BSD-3-Clause
#include <tracer/python_op.h>

#include <python/error.h>
#include <python/gil.h>

#include <torch/csrc/utils/python_strings.h>

#include <optional>
#include <string>
#include <utility>

namespace torch_ext {

namespace {

/// A ConcretePythonOp that may be destroyed on any thread, with or without the
/// GIL: a graph dies with the last module that uses it. It has no members of
/// its own, since torch casts nodes by their kind.
struct RecordedPythonOp final : torch::jit::ConcretePythonOp {
  using ConcretePythonOp::ConcretePythonOp;

  ~RecordedPythonOp() override {
    if (const GilIfPythonLives gil; gil) {
      pyobj = THPObjectPtr();
      scalar_args.clear();
    } // otherwise THPObjectPtr drops nothing
  }

  torch::jit::Node* allocNewInstance(torch::jit::Graph* graph) override {
    return new RecordedPythonOp(graph);
  }
};

/// str(object), as a std::string.
std::string text_of_object(PyObject* object) {
  Ref text = checked(PyObject_Str(object));
  return THPUtils_unpackString(text.get());
}

/// The text of a scalar argument: str(), also of the items of a tuple.
std::string scalar_text(PyObject* scalar) {
  if (!PyTuple_Check(scalar)) {
    return text_of_object(scalar);
  }
  std::string text = "(";
  const Py_ssize_t size = PyTuple_GET_SIZE(scalar);
  for (Py_ssize_t i = 0; i < size; ++i) {
    text += i > 0 ? ", " : "";
    text += text_of_object(PyTuple_GET_ITEM(scalar, i));
  }
  return text + (size == 1 ? ",)" : ")");
}

/// An attribute; null if there is none or the lookup raises.
Ref attribute_or_nothing(PyObject* object, const char* name) {
  Ref value = Ref::steal(PyObject_GetAttrString(object, name));
  PyErr_Clear();
  return value;
}

} // namespace

torch::jit::Node* make_python_op(
    torch::jit::Graph& graph,
    THPObjectPtr callable,
    const std::string& calling_convention,
    pyobj_list scalars) {
  auto* op = new RecordedPythonOp(&graph); // owned by the graph from here on
  return op->init(std::move(callable), calling_convention, std::move(scalars));
}

} // namespace torch_ext

// torch's own, defined a second time: docs/architecture.md says why.
namespace torch::jit {

using torch_ext::Gil;
using torch_ext::Ref;

Symbol ConcretePythonOp::Kind = prim::PythonOp;

std::string ConcretePythonOp::name() const {
  Gil gil;
  // A Function is called by its class, and named by it.
  const auto function = autogradFunction();
  const THPObjectPtr& named = function ? *function : pyobj;
  // pyobj is const only as far as this object is.
  auto* object = const_cast<PyObject*>(named.get());
  Ref name = torch_ext::attribute_or_nothing(object, "__name__");
  return name ? torch_ext::text_of_object(name.get()) : "<python_value>";
}

void ConcretePythonOp::cloneFrom(Node* other_) {
  // PythonOp, the base between, has no definition of it.
  Node::cloneFrom(other_); // NOLINT(bugprone-parent-virtual-call)
  Gil gil;
  auto* other = other_->expect<ConcretePythonOp>();
  cconv = other->cconv;
  pyobj = THPObjectPtr(Py_NewRef(other->pyobj.get()));
  scalar_args.reserve(other->scalar_args.size());
  for (const THPObjectPtr& scalar : other->scalar_args) {
    scalar_args.emplace_back(Py_NewRef(const_cast<PyObject*>(scalar.get())));
  }
}

std::optional<THPObjectPtr> ConcretePythonOp::autogradFunction() const {
  Gil gil;
  auto* callable = const_cast<PyObject*>(pyobj.get());
  Ref cls = torch_ext::attribute_or_nothing(callable, "__self__");
  if (!cls || cls.get() == Py_None) {
    return std::nullopt;
  }
  Ref apply = torch_ext::attribute_or_nothing(cls.get(), "apply");
  if (!apply || apply.get() == Py_None) {
    return std::nullopt;
  }
  const int differs = PyObject_RichCompareBool(apply.get(), callable, Py_NE);
  torch_ext::check_status(differs);
  if (differs != 0) {
    return std::nullopt;
  }
  return THPObjectPtr(cls.release());
}

void ConcretePythonOp::writeScalars(std::ostream& out) const {
  Gil gil;
  out << "(";
  const char* separator = "";
  for (const THPObjectPtr& scalar : scalar_args) {
    out << separator
        << torch_ext::scalar_text(const_cast<PyObject*>(scalar.get()));
    separator = ", ";
  }
  out << ")";
}

void ConcretePythonOp::lint_python() const {
  size_t scalars = 0, tensors = 0;
  for (const char kind : cconv) {
    TORCH_INTERNAL_ASSERT(kind == 'c' || kind == 'd');
    (kind == 'c' ? scalars : tensors) += 1;
  }
  TORCH_INTERNAL_ASSERT(static_cast<bool>(pyobj));
  TORCH_INTERNAL_ASSERT(scalars == scalar_args.size());
  TORCH_INTERNAL_ASSERT(tensors == inputs().size());
}

} // namespace torch::jit
