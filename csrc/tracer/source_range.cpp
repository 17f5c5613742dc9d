// SPDX-License-Identifier: BSD-3-Clause
// Where in the Python code a node of a traced graph comes from.
#include <compat.h>
#include <python/error.h>
#include <python/gil.h>

#include <torch/csrc/jit/python/python_tracer.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace torch_ext {

namespace {

/// One line of a stack.
struct Place {
  std::string file;
  std::string function;
  size_t line;
};

/// The text of a str, with escapes for what UTF-8 can't encode.
std::string text_of(PyObject* string) {
  Ref bytes =
      checked(PyUnicode_AsEncodedString(string, "utf-8", "backslashreplace"));
  return std::string(
      PyBytes_AS_STRING(bytes.get()),
      static_cast<size_t>(PyBytes_GET_SIZE(bytes.get())));
}

/// The frames of this thread, innermost first.
std::vector<Place> python_stack() {
  // First the code objects, since text_of() may run Python code.
  std::vector<std::pair<Ref, int>> frames;
  compat::for_each_frame([&](PyCodeObject* code, int instruction) {
    frames.emplace_back(
        Ref::share(reinterpret_cast<PyObject*>(code)), instruction);
    return true;
  });
  std::vector<Place> stack;
  stack.reserve(frames.size());
  for (const auto& [object, instruction] : frames) {
    auto* code = reinterpret_cast<PyCodeObject*>(object.get());
    stack.push_back(
        {text_of(code->co_filename),
         text_of(code->co_name),
         static_cast<size_t>(PyCode_Addr2Line(code, instruction))});
  }
  return stack;
}

/// A range that spans the text of the whole stack. It prints as the first line.
torch::jit::SourceRange range_of(const std::vector<Place>& stack) {
  std::string text;
  for (const Place& place : stack) {
    text += place.file + "(" + std::to_string(place.line) +
        "): " + place.function + "\n";
  }
  const size_t length = text.size();
  std::optional<std::string> file;
  size_t line = 0;
  if (!stack.empty()) {
    file = stack.front().file;
    line = stack.front().line;
  }
  return torch::jit::SourceRange(
      std::make_shared<torch::jit::Source>(
          std::move(text), std::move(file), line),
      0,
      length);
}

} // namespace
} // namespace torch_ext

// torch's own, defined a second time: docs/architecture.md says why.
namespace torch::jit::tracer {

SourceRange getPythonInterpreterSourceRange() {
  torch_ext::Gil gil;
  return torch_ext::range_of(torch_ext::python_stack());
}

} // namespace torch::jit::tracer
