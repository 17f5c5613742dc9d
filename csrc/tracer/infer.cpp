#include <tracer/infer.h>

#include <torch/csrc/jit/python/module_python.h>
#include <torch/csrc/jit/python/pybind_utils.h>

namespace torch_ext {

namespace {

template <typename Holder>
c10::IValue object_value(const Holder& holder) {
  return c10::intrusive_ptr<c10::ivalue::Object>(holder._ivalue());
}

} // namespace

c10::IValue inferred_value(py::handle object) {
  // By way of Python: the header's inference calls what torch does not export.
  const py::object match =
      py::module_::import("torch._C").attr("_jit_try_infer_type")(object);
  if (match.attr("success")().cast<bool>()) {
    return torch::jit::toIValue(
        object, match.attr("type")().cast<c10::TypePtr>());
  }
  if (auto module = torch::jit::as_module(object)) {
    return object_value(*module);
  }
  if (auto script_object = torch::jit::as_object(object)) {
    return object_value(*script_object);
  }
  TORCH_CHECK(
      false,
      "Tracer cannot infer type of ",
      std::string(py::str(object)),
      "\n:",
      match.attr("reason")().cast<std::string>());
}

} // namespace torch_ext
