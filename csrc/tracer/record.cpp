// SPDX-License-Identifier: BSD-3-Clause
#include <tracer/record.h>

#include <compat.h>
#include <python/error.h>
#include <python/names.h>
#include <python/tensor.h>
#include <tracer/inline_subgraph.h>
#include <tracer/python_op.h>

#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/python/python_tracer.h>

#include <optional>
#include <string>
#include <utility>

namespace torch_ext {

namespace {

using torch::jit::Node;
using torch::jit::Value;

/// The module that the class was defined in, if its own dict names it.
std::optional<std::string> module_of(PyTypeObject* cls) {
  Ref dict = compat::type_dict(cls);
  Ref module = find_item(dict.get(), names.__module__);
  if (!module) {
    return std::nullopt;
  }
  const char* text = PyUnicode_AsUTF8(module.get());
  if (text == nullptr) {
    PyErr_Clear(); // no str, or not for UTF-8: the node does without
    return std::nullopt;
  }
  return text;
}

/// Gives the node one output, a tuple of `size`, and adds a node after it that
/// unpacks the tuple. Returns that one.
Node* add_tuple_output(Node* node, size_t size) {
  // The items' types are added once they are known: set_item_types().
  std::vector<at::TypePtr> items(size, at::TensorType::get());
  node->addOutput()->setType(at::TupleType::create(std::move(items)));
  return node->owningGraph()
      ->createTupleUnpack(node->output())
      ->insertAfter(node);
}

/// Copies the types of the unpacked items back into the tuple's.
void set_item_types(Node* node, const Node* unpacked) {
  std::vector<at::TypePtr> items;
  items.reserve(unpacked->outputs().size());
  for (const Value* item : unpacked->outputs()) {
    items.push_back(item->type());
  }
  node->output()->setType(at::TupleType::create(std::move(items)));
}

/// Makes `values` the traced values of the tensors among `outputs`. Returns the
/// values that these had before, from inside forward.
std::vector<Value*> rebind_outputs(
    c10::ArrayRef<Ref> outputs,
    at::ArrayRef<Value*> values) {
  std::vector<Value*> inside;
  inside.reserve(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    PyObject* output = outputs[i].get();
    if (!has_tensor_type(output)) {
      continue;
    }
    const at::Tensor& tensor = THPVariable_Unpack(output);
    if (tensor.defined()) {
      values[i]->inferTypeFrom(tensor);
      inside.push_back(torch::jit::tracer::getValueTrace(tensor));
      torch::jit::tracer::setValueTrace(tensor, values[i]);
    }
  }
  return inside;
}

} // namespace

bool Recording::active() const {
  return torch::jit::tracer::getTracingState() == state;
}

Recording record_call(
    PyObject* cls,
    c10::ArrayRef<PyObject*> arguments,
    const Flags& is_tensor,
    c10::ArrayRef<const at::Tensor*> tensors) {
  Recording recording;
  recording.state = torch::jit::tracer::getTracingState();
  recording.graph = recording.state->graph;

  std::string kinds;
  pyobj_list scalars;
  for (size_t i = 0; i < arguments.size(); ++i) {
    kinds.push_back(is_tensor[i] ? 'd' : 'c');
    if (!is_tensor[i]) {
      scalars.emplace_back(Py_NewRef(arguments[i]));
    }
  }
  std::vector<at::Tensor> inputs;
  inputs.reserve(tensors.size());
  for (const at::Tensor* tensor : tensors) {
    inputs.push_back(*tensor);
  }
  recording.node = torch::jit::tracer::preRecordPythonTrace(
      THPObjectPtr(Py_NewRef(cls)), kinds, inputs, std::move(scalars));
  return recording;
}

void record_outputs(
    const Recording& recording,
    PyTypeObject* cls,
    c10::ArrayRef<Ref> outputs,
    bool in_place,
    bool single) {
  if (!recording.active()) {
    return;
  }
  Node* node = recording.node;
  node->i_(torch::jit::attr::inplace, in_place);
  if (auto module = module_of(cls)) {
    node->s_(torch::jit::attr::module, *module);
  }
  Node* giver = node; // whose outputs are the items of `outputs`
  if (single) {
    node->addOutput();
  } else {
    giver = add_tuple_output(node, outputs.size());
  }
  const std::vector<Value*> inside = rebind_outputs(outputs, giver->outputs());
  if (autograd_inlining()) {
    append_subgraph(node, giver, inside);
  }
  if (!single) {
    set_item_types(node, giver);
  }
}

} // namespace torch_ext

// torch's own, defined a second time: docs/architecture.md says why.
namespace torch::jit::tracer {

Node* preRecordPythonTrace(
    THPObjectPtr pyobj,
    const std::string& arg_types,
    at::ArrayRef<autograd::Variable> inputs,
    std::vector<THPObjectPtr> scalar_args) {
  using torch_ext::checked;
  torch_ext::Ref apply =
      checked(PyObject_GetAttr(pyobj.get(), torch_ext::names.apply));
  const std::shared_ptr<Graph>& graph = getTracingState()->graph;
  Node* node = torch_ext::make_python_op(
      *graph, THPObjectPtr(apply.release()), arg_types, std::move(scalar_args));
  node->setSourceRange(getPythonInterpreterSourceRange());
  for (const at::Tensor& input : inputs) {
    node->addInput(getValueTrace(input));
  }
  graph->insertNode(node);
  return node;
}

} // namespace torch::jit::tracer
