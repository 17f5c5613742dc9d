// Every difference between torch and Python releases lives here; no other file
// asks for a version. Supporting another release means adding to this file.
#pragma once

#include <torch/csrc/autograd/python_function.h>
#include <torch/csrc/python_headers.h>
#include <torch/csrc/utils/pyobject_preservation.h>
#include <torch/version.h>

#if PY_VERSION_HEX < 0x030A0000
#error "torch_ext needs Python 3.10 or newer"
#endif

#if TORCH_VERSION_MAJOR != 2 || TORCH_VERSION_MINOR != 13
#error "csrc/compat.h has no entry for this torch; it knows 2.13"
#endif

namespace torch_ext::compat {

/// How libtorch holds a graph node.
using NodePtr = c10::intrusive_ptr<torch::autograd::Node>;

/// Makes a PyNode whose Python object is `object`, which owns the node from
/// then on. The node refers back without owning; torch keeps the object alive
/// for as long as anything in C++ holds the node.
inline NodePtr make_py_node(PyObject* object) {
  NodePtr node = c10::make_intrusive<torch::autograd::PyNode>();
  torch::utils::PyObjectPreservation::init_fresh_nonatomic(*node, object);
  return node;
}

/// Ends the node's reference to `object`, which is being deallocated: what the
/// node's own destructor runs must not reach a half-dead object.
inline void forget_py_object(const NodePtr& node, PyObject* object) {
  auto* slot = node->pyobj_slot();
  if (slot->load_pyobj() == object) {
    slot->store_pyobj(nullptr);
  }
}

/// torch's own wrapping of a custom Function's outputs.
inline torch::autograd::optional_variable_list wrap_outputs(
    const torch::autograd::variable_list& inputs,
    const std::unordered_set<at::TensorImpl*>& non_differentiable,
    const std::unordered_set<at::TensorImpl*>& dirty,
    at::ArrayRef<std::optional<at::Tensor>> raw_outputs,
    const NodePtr& node,
    const torch::autograd::_jvp_fn_t& jvp,
    const std::unordered_set<at::TensorImpl*>& saved_by_setup_context,
    const torch::autograd::_view_as_self_fn_t& view_as_self,
    bool pure_view) {
  return torch::autograd::_wrap_outputs(
      inputs,
      non_differentiable,
      dirty,
      raw_outputs,
      node,
      jvp,
      saved_by_setup_context,
      view_as_self,
      pure_view);
}

/// Whether the type has a version tag, and which. The tag is unique in the
/// process and is lost when the type, or a base of it, is changed.
/// 0 stands for no tag.
inline unsigned int type_version(const PyTypeObject* type) {
  return PyType_HasFeature(
             const_cast<PyTypeObject*>(type), Py_TPFLAGS_VALID_VERSION_TAG)
      ? type->tp_version_tag
      : 0;
}

/// The attribute as it stands in the dict of the type or of a base, without
/// descriptor call. Borrowed: alive until the type is changed. Null without an
/// exception where there is none.
inline PyObject* type_lookup(PyTypeObject* type, PyObject* name) {
  return _PyType_Lookup(type, name);
}

/// The dict of a type: a new reference, or null with an exception set.
inline PyObject* type_dict(PyTypeObject* type) {
#if PY_VERSION_HEX >= 0x030C0000
  return PyType_GetDict(type);
#else
  return Py_XNewRef(type->tp_dict);
#endif
}

/// A method of `object` without making a bound method where that can be
/// avoided: returns true and leaves in `method` a function that takes `object`
/// as its first argument; otherwise the attribute itself, or null with an
/// exception set. `method` receives a new reference.
inline bool get_method(PyObject* object, PyObject* name, PyObject** method) {
  return _PyObject_GetMethod(object, name, method) == 1;
}

/// The names of a code object's local variables, arguments first: a new
/// reference, or null with an exception set.
inline PyObject* code_varnames(PyCodeObject* code) {
#if PY_VERSION_HEX >= 0x030B0000
  return PyCode_GetVarnames(code);
#else
  return Py_NewRef(code->co_varnames);
#endif
}

/// Calls `visit(code, instruction)` for each Python frame of this thread,
/// innermost first. `visit` takes over a reference to the code object; the
/// instruction is a byte offset into it.
template <typename Visit>
void for_each_frame(Visit&& visit) {
  PyFrameObject* frame = PyThreadState_GetFrame(PyThreadState_Get());
  while (frame != nullptr) {
#if PY_VERSION_HEX >= 0x030B0000
    visit(PyFrame_GetCode(frame), PyFrame_GetLasti(frame));
#else
    visit(
        PyFrame_GetCode(frame),
        frame->f_lasti * static_cast<int>(sizeof(_Py_CODEUNIT)));
#endif
    PyFrameObject* back = PyFrame_GetBack(frame);
    Py_DECREF(frame);
    frame = back;
  }
}

} // namespace torch_ext::compat
