// SPDX-License-Identifier: BSD-3-Clause
#include <tracer/inline_subgraph.h>

#include <compat.h>
#include <python/error.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <unordered_map>

namespace torch_ext {

namespace {

using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Value;

using ValueMap = std::unordered_map<Value*, Value*>;

/// Throws for a value that forward took from outside its inputs: forward's
/// graph has no place for it. torch fails here in these words, those of the
/// map's own check.
Value* mapped(const ValueMap& map, Value* value) {
  const auto found = map.find(value);
  if (found == map.end()) {
    throw std::out_of_range("unordered_map::at");
  }
  return found->second;
}

} // namespace

bool autograd_inlining() {
  Ref module = checked(PyImport_ImportModule(compat::kOnnxGlobalsModule));
  Ref globals = checked(PyObject_GetAttrString(module.get(), "GLOBALS"));
  Ref inlining =
      checked(PyObject_GetAttrString(globals.get(), "autograd_inlining"));
  const int answer = PyObject_IsTrue(inlining.get());
  check_status(answer);
  return answer != 0;
}

void append_subgraph(
    Node* node,
    Node* giver,
    const std::vector<Value*>& outputs) {
  auto subgraph = std::make_shared<Graph>(node->owningGraph()->current_scope());
  // The node has it from the start, so that after an error below it has a part.
  node->g_(torch::jit::attr::Subgraph, subgraph);
  ValueMap map;
  for (Value* input : node->inputs()) {
    map[input] = subgraph->addInput()->copyMetadata(input);
  }
  for (auto it = std::next(giver->iterator());
       it != giver->owningBlock()->nodes().end();
       ++it) {
    Node* clone = subgraph->insertNode(subgraph->createClone(
        *it, [&](Value* value) { return mapped(map, value); }));
    for (size_t i = 0; i < it->outputs().size(); ++i) {
      Value* original = it->outputs()[i];
      map[original] = clone->outputs()[i];
      if (std::find(outputs.begin(), outputs.end(), original) !=
          outputs.end()) {
        subgraph->registerOutput(clone->outputs()[i]);
      }
    }
  }
}

} // namespace torch_ext
