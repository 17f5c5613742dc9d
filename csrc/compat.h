// Every difference between torch and Python releases lives here; no other file
// asks for a version. Supporting another release means adding to this file.
#pragma once

#include <python/ref.h>

#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/python_function.h>
#include <torch/csrc/python_headers.h>
#include <torch/csrc/utils/pyobject_preservation.h>
#include <torch/csrc/utils/pythoncapi_compat.h>
#include <torch/version.h>

#include <mutex>
#include <optional>
#include <type_traits>

#if PY_VERSION_HEX < 0x030A0000
#error "torch_ext needs Python 3.10 or newer"
#endif

#if TORCH_VERSION_MAJOR != 2 || TORCH_VERSION_MINOR < 11 || \
    TORCH_VERSION_MINOR > 15
#error "csrc/compat.h has no entry for this torch; it knows 2.11 to 2.15"
#endif

namespace torch_ext::compat {

// --- The node of a ctx -------------------------------------------------------

/// How libtorch holds a graph node.
using NodePtr = std::remove_cvref_t<decltype(torch::autograd::Edge::function)>;

/// How a ctx refers to its node: THPFunction::cdata.
using NodeOfCtx = decltype(THPFunction::cdata);

#if TORCH_VERSION_MINOR >= 13

// The ctx owns its node. The node refers back without owning; torch keeps the
// ctx alive for as long as anything in C++ holds the node.

/// Part of making the ctx: gives it its node.
inline void make_node(PyObject* ctx) {
  NodePtr node = c10::make_intrusive<torch::autograd::PyNode>();
  torch::utils::PyObjectPreservation::init_fresh_nonatomic(*node, ctx);
  reinterpret_cast<THPFunction*>(ctx)->cdata = std::move(node);
}

/// Keeps the node of `ctx` alive during a call of apply().
struct NodeDuringCall {
  explicit NodeDuringCall(PyObject* /*ctx*/) {}
};

/// The node; null where it is gone.
inline const NodePtr& node_of(const NodeOfCtx& cdata) {
  return cdata;
}

/// The ctx of a node; null where it is being deallocated.
inline PyObject* ctx_of(const torch::autograd::PyNode& node) {
  return node.pyobj();
}

/// The node where the ctx owns it, so that either lives as long as the other;
/// null where it doesn't, or there is none.
inline torch::autograd::Node* owned_node(const NodeOfCtx& cdata) {
  return cdata.get();
}

/// Whether there is a node behind a grad_fn.
inline bool has_node(PyObject* /*grad_fn*/) {
  return true;
}

/// Ends the node's reference to `ctx`, which is being deallocated: what the
/// node's own destructor runs must not reach a half-dead object.
inline void forget_ctx(const NodeOfCtx& cdata, PyObject* ctx) {
  if (cdata && cdata->pyobj_slot()->load_pyobj() == ctx) {
    cdata->pyobj_slot()->store_pyobj(nullptr);
  }
}

#else

// The node owns the ctx, which refers to it weakly. A call makes the node, and
// the outputs hold it from then on.

inline void make_node(PyObject* /*ctx*/) {}

class NodeDuringCall {
 public:
  explicit NodeDuringCall(PyObject* ctx)
      : node_(
            new torch::autograd::PyNode(THPObjectPtr(Py_NewRef(ctx))),
            torch::autograd::deleteNode) {
    reinterpret_cast<THPFunction*>(ctx)->cdata = node_;
  }

 private:
  std::shared_ptr<torch::autograd::PyNode> node_;
};

inline NodePtr node_of(const NodeOfCtx& cdata) {
  return cdata.lock();
}

inline PyObject* ctx_of(const torch::autograd::PyNode& node) {
  return node.obj;
}

inline torch::autograd::Node* owned_node(const NodeOfCtx&) {
  return nullptr;
}

inline bool has_node(PyObject* grad_fn) {
  return !PyObject_TypeCheck(grad_fn, &THPFunctionType) ||
      !reinterpret_cast<THPFunction*>(grad_fn)->cdata.expired();
}

inline void forget_ctx(const NodeOfCtx&, PyObject*) {}

#endif

// --- Members of THPFunction that only some releases have ---------------------

/// Stand-ins for members that this torch lacks.
struct Lacking {
  PyObject* output_grad_dtypes = nullptr;
  bool boxed_grads_call = false;
};

/// What set_output_grad_dtype was given: a tuple, or null.
template <typename Function>
PyObject*& output_grad_dtypes(Function& function, Lacking& lacking) {
  if constexpr (requires { function.output_grad_dtypes; }) {
    return function.output_grad_dtypes;
  } else {
    return lacking.output_grad_dtypes;
  }
}

/// Whether backward gets its gradients as one list.
template <typename Function>
bool& boxed_grads_call(Function& function, Lacking& lacking) {
  if constexpr (requires { function.boxed_grads_call; }) {
    return function.boxed_grads_call;
  } else {
    return lacking.boxed_grads_call;
  }
}

/// The flags of ctx.needs_input_grad that torch's own apply notes instead of
/// making the tuple; none where it has made that, or nothing yet.
template <typename Function>
std::optional<std::vector<bool>> needs_input_grad_bits(
    const Function& function) {
  if constexpr (requires { function.needs_input_grad_bits; }) {
    if (const auto& bits = function.needs_input_grad_bits) {
      return std::vector<bool>(bits->begin(), bits->end());
    }
  }
  return std::nullopt;
}

template <typename Function>
void forget_needs_input_grad_bits(Function& function) {
  if constexpr (requires { function.needs_input_grad_bits; }) {
    function.needs_input_grad_bits.reset();
  }
}

/// Starts and ends the life of C++ members in memory that Python has zeroed.
template <typename Function>
void construct_newer_members(Function& function) {
  if constexpr (requires { function.needs_input_grad_bits; }) {
    std::construct_at(&function.needs_input_grad_bits);
  }
}

template <typename Function>
void destroy_newer_members(Function& function) {
  if constexpr (requires { function.needs_input_grad_bits; }) {
    std::destroy_at(&function.needs_input_grad_bits);
  }
}

// --- The graph ---------------------------------------------------------------

/// torch's own wrapping of a custom Function's outputs. `attached` becomes the
/// node that the outputs got as their history, where torch tells.
inline torch::autograd::optional_variable_list wrap_outputs(
    at::ArrayRef<const at::Tensor*> inputs,
    const std::unordered_set<at::TensorImpl*>& non_differentiable,
    const std::unordered_set<at::TensorImpl*>& dirty,
    at::ArrayRef<std::optional<at::Tensor>> raw_outputs,
    const NodePtr& node,
    const torch::autograd::_jvp_fn_t& jvp,
    const std::unordered_set<at::TensorImpl*>& saved_by_setup_context,
    const torch::autograd::_view_as_self_fn_t& view_as_self,
    bool pure_view,
    [[maybe_unused]] NodePtr& attached) {
#if TORCH_VERSION_MINOR < 14
  torch::autograd::variable_list tensors;
  tensors.reserve(inputs.size());
  for (const at::Tensor* input : inputs) {
    tensors.push_back(*input);
  }
#endif
  return torch::autograd::_wrap_outputs(
#if TORCH_VERSION_MINOR >= 14
      inputs,
#else
      tensors,
#endif
      non_differentiable,
      dirty,
      raw_outputs,
      node,
      jvp,
      saved_by_setup_context,
      view_as_self,
#if TORCH_VERSION_MINOR >= 14
      pure_view,
      attached);
#else
      pure_view);
#endif
}

/// How one of torch's messages ends, where torch doesn't break it off.
template <typename... Args>
std::string message_end([[maybe_unused]] const Args&... args) {
#if TORCH_VERSION_MINOR >= 14
  return c10::str(args...);
#else
  return {};
#endif
}

/// Whether the apply of torch's own Functions takes keyword arguments.
constexpr bool kApplyTakesKeywords = TORCH_VERSION_MINOR >= 13;

/// Whether torch's own apply is written in C: it has no parameter `cls` that a
/// keyword could collide with, and tells an overridden setup_context by
/// identity.
constexpr bool kApplyIsInC = TORCH_VERSION_MINOR >= 14;

/// Whether torch.autograd.graph.node_creation_hook exists.
constexpr bool kNodeCreationHooks = TORCH_VERSION_MINOR >= 14;

/// Runs the node creation hooks on a node that is complete.
template <typename Node>
void node_created(const Node& node) {
  if constexpr (kNodeCreationHooks) {
    if (node) {
      fire_node_creation_hooks(node);
    }
  }
}

/// An Engine that hands all that only some releases ask of one to another.
template <typename Engine>
class ForwardingEngine : public Engine {
 public:
  explicit ForwardingEngine(Engine& engine) : engine_(engine) {}

 protected:
  Engine& engine_;
};

template <typename Engine>
  requires requires(Engine& engine) { engine.get_node_creation_hooks(); }
class ForwardingEngine<Engine> : public Engine {
 public:
  explicit ForwardingEngine(Engine& engine) : engine_(engine) {}

  decltype(std::declval<Engine&>().get_node_creation_hooks())
  get_node_creation_hooks() override {
    return engine_.get_node_creation_hooks();
  }

 protected:
  Engine& engine_;
};

// --- Threads -----------------------------------------------------------------

// The GIL guards all that Python code can reach. Where there is none, these do;
// where there is one, they are nothing.

#ifdef Py_GIL_DISABLED

constexpr bool kFreeThreaded = true;

/// While it lives this thread has `object` to itself, as the GIL gives a thread
/// everything: other threads may get their turn whenever this one has to wait,
/// for a lock say, or runs Python code.
class CriticalSection {
 public:
  explicit CriticalSection(PyObject* object) {
    PyCriticalSection_Begin(&section_, object);
  }
  ~CriticalSection() {
    PyCriticalSection_End(&section_);
  }
  CriticalSection(const CriticalSection&) = delete;
  CriticalSection& operator=(const CriticalSection&) = delete;

 private:
  PyCriticalSection section_;
};

/// What a Lock takes.
using Mutex = std::recursive_mutex;

/// Holds the mutex while it lives, whatever Python code runs meanwhile.
class Lock {
 public:
  explicit Lock(Mutex& mutex) : mutex_(mutex) {
    if (!mutex_.try_lock()) {
      // Detached: who has it may be waiting for all threads to stop.
      PyThreadState* state = PyEval_SaveThread();
      mutex_.lock();
      PyEval_RestoreThread(state);
    }
  }
  ~Lock() {
    mutex_.unlock();
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  Mutex& mutex_;
};

/// Says that `module` can do without the GIL. False with an exception set.
inline bool need_no_gil(PyObject* module) {
  return PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED) == 0;
}

#else

constexpr bool kFreeThreaded = false;

struct CriticalSection {
  explicit CriticalSection(PyObject* /*object*/) {}
};

struct Mutex {};

struct Lock {
  explicit Lock(Mutex& /*mutex*/) {}
};

inline bool need_no_gil(PyObject* /*module*/) {
  return true;
}

#endif

// --- Python ------------------------------------------------------------------

/// Whether the type has a version tag, and which. The tag is unique in the
/// process and is lost when the type, or a base of it, is changed.
/// 0 stands for no tag.
inline unsigned int type_version(const PyTypeObject* type) {
#if PY_VERSION_HEX >= 0x030D0000
  return type->tp_version_tag;
#else
  return PyType_HasFeature(
             const_cast<PyTypeObject*>(type), Py_TPFLAGS_VALID_VERSION_TAG)
      ? type->tp_version_tag
      : 0;
#endif
}

/// The attribute as it stands in the dict of the type or of a base, without
/// descriptor call. Null without an exception where there is none.
inline Ref type_lookup(PyTypeObject* type, PyObject* name) {
#if PY_VERSION_HEX >= 0x030D0000
  return Ref::steal(_PyType_LookupRef(type, name));
#else
  return Ref::share(_PyType_Lookup(type, name));
#endif
}

/// The dict of a type: a new reference, or null with an exception set.
inline PyObject* type_dict(PyTypeObject* type) {
#if PY_VERSION_HEX >= 0x030C0000
  return PyType_GetDict(type);
#else
  return Py_XNewRef(type->tp_dict);
#endif
}

// Exported by every Python, declared for extensions up to 3.12.
extern "C" PyAPI_FUNC(int)
    _PyObject_GetMethod(PyObject* object, PyObject* name, PyObject** method);

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

/// Whether something looks at every Python frame that begins: torch.compile does
/// while compiled code runs.
inline bool frames_are_watched() {
  return _PyInterpreterState_GetEvalFrameFunc(PyInterpreterState_Get()) !=
      _PyEval_EvalFrameDefault;
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
