// SPDX-License-Identifier: BSD-3-Clause
// Every difference between torch and Python releases lives here; no other file
// asks for a version. Supporting another release means adding to this file.
#pragma once

#include <python/error.h>
#include <python/gil.h>
#include <python/names.h>

#include <c10/core/SafePyObject.h>
#include <torch/csrc/PyInterpreter.h>
#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/python_anomaly_mode.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/python_function.h>
#include <torch/csrc/autograd/saved_variable_hooks.h>
#include <torch/csrc/python_headers.h>
#include <torch/csrc/utils/pyobject_preservation.h>
#include <torch/csrc/utils/pythoncapi_compat.h>
#include <torch/version.h>
#if PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030E0000
#define TORCH_EXT_KNOWS_FRAMES 1
#define Py_BUILD_CORE // as the header asks of who includes it
#include <internal/pycore_frame.h>
#undef Py_BUILD_CORE
#else
#define TORCH_EXT_KNOWS_FRAMES 0
#endif
#if TORCH_VERSION_MINOR < 15
#include <torch/csrc/autograd/python_saved_variable_hooks.h>
#endif

#include <atomic>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#if PY_VERSION_HEX < 0x030A0000 || PY_VERSION_HEX >= 0x03100000
#error "torch_ext knows Python 3.10 to 3.15"
#endif

#if TORCH_VERSION_MAJOR != 2 || TORCH_VERSION_MINOR < 11 || \
    TORCH_VERSION_MINOR > 15
#error "csrc/compat.h has no entry for this torch; it knows 2.11 to 2.15"
#endif

namespace torch_ext::compat {

// --- Who owns the node of a ctx ----------------------------------------------
//
// A call makes two objects: the ctx (Python's) and its node (C++'s). Each has to
// live as long as the other, and torch 2.13 turned around which one owns which:
//
//            torch 2.11, 2.12              torch 2.13 and newer
//   owns     node -> ctx (PyNode::obj)     ctx -> node (THPFunction::cdata)
//   refers   ctx -> node, weakly           node -> ctx, without owning it
//   held by  outputs and edges hold the    the same, and torch lets whoever
//            node, and so the ctx          holds the node hold the ctx
//   so       a ctx may outlive its node    neither outlives the other

/// How libtorch holds a graph node.
using NodePtr = std::remove_cvref_t<decltype(torch::autograd::Edge::function)>;

/// How a ctx refers to its node: THPFunction::cdata.
using NodeOfCtx = decltype(THPFunction::cdata);

#if TORCH_VERSION_MINOR >= 13

/// A PyNode that takes the GIL only if the thread hasn't got it already: torch
/// goes through pybind11 each time the node is shared, or no longer is.
struct OwnNode final : torch::autograd::PyNode {
  void incref_pyobject() const noexcept override {
    // Counts are relaxed: who sees that there is an object must see which.
    std::atomic_thread_fence(std::memory_order_acquire);
    const Gil gil;
    Py_XINCREF(pyobj());
  }
  void decref_pyobject() const noexcept override {
    // After Python's end the object is left where it is.
    if (Py_IsInitialized() != 0) {
      const Gil gil;
      Py_XDECREF(pyobj());
    }
  }
};

/// Gives a new ctx its node.
inline void make_node(PyObject* ctx) {
  NodePtr node = c10::make_intrusive<OwnNode>();
  torch::utils::PyObjectPreservation::init_fresh_nonatomic(*node, ctx);
  reinterpret_cast<THPFunction*>(ctx)->cdata = std::move(node);
}

/// Keeps the node of `ctx` alive during a call of apply(): the ctx does.
struct NodeDuringCall {
  explicit NodeDuringCall(PyObject* /*ctx*/) {}
};

/// The node of a ctx; null only while the ctx is being created or destroyed.
inline const NodePtr& node_of(const NodeOfCtx& cdata) {
  return cdata;
}
void node_of(const NodeOfCtx&&) = delete;

/// The ctx of a node, borrowed; null while the ctx is being deallocated.
inline PyObject* ctx_of(const torch::autograd::PyNode& node) {
  return node.pyobj();
}

/// The node if the ctx owns it, and null otherwise: what the node holds is then
/// the garbage collector's to see by way of the ctx.
inline torch::autograd::Node* owned_node(const NodeOfCtx& cdata) {
  return cdata.get();
}

/// How many tensors, edges and the like hold the node that the ctx owns. They
/// have one reference to the ctx together.
inline size_t other_holders(const NodeOfCtx& cdata) {
  return cdata.use_count() == 0 ? 0 : cdata.use_count() - 1;
}

/// The Python object of any node, borrowed; null if it has none.
inline PyObject* object_of(const torch::autograd::Node& node) {
  return node.pyobj_slot()->load_pyobj();
}

/// Whether there is a node behind a grad_fn.
inline bool has_node(PyObject* /*grad_fn*/) {
  return true;
}

/// Ends the node's reference to `ctx`, which is being deallocated: code that
/// the node's destructor runs must not reach a half-dead object.
inline void forget_ctx(const NodeOfCtx& cdata, PyObject* ctx) {
  if (cdata && cdata->pyobj_slot()->load_pyobj() == ctx) {
    cdata->pyobj_slot()->store_pyobj(nullptr);
  }
}

#else

/// A new ctx has no node: the call makes it.
inline void make_node(PyObject* /*ctx*/) {}

/// Makes the node of `ctx` and keeps it alive during a call of apply(); the
/// outputs hold it from then on.
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

/// The node of a ctx; null if it is gone.
inline NodePtr node_of(const NodeOfCtx& cdata) {
  return cdata.lock();
}

inline PyObject* ctx_of(const torch::autograd::PyNode& node) {
  return node.obj;
}

inline torch::autograd::Node* owned_node(const NodeOfCtx&) {
  return nullptr;
}

inline size_t other_holders(const NodeOfCtx&) {
  return 0;
}

inline PyObject* object_of(const torch::autograd::Node& /*node*/) {
  return nullptr; // nobody asks if no ctx owns its node
}

inline bool has_node(PyObject* grad_fn) {
  return !PyObject_TypeCheck(grad_fn, &THPFunctionType) ||
      !reinterpret_cast<THPFunction*>(grad_fn)->cdata.expired();
}

inline void forget_ctx(const NodeOfCtx&, PyObject*) {}

#endif

// --- Members of THPFunction that only some releases have ---------------------

/// Stand-ins for members that this torch lacks.
struct StandIns {
  PyObject* output_grad_dtypes = nullptr;
  bool boxed_grads_call = false;
};
struct NoStandIns {};

template <typename Function>
constexpr bool lacks_members = !requires(Function function) {
  function.output_grad_dtypes;
  function.boxed_grads_call;
};

using Lacking =
    std::conditional_t<lacks_members<THPFunction>, StandIns, NoStandIns>;

/// What set_output_grad_dtype was given: a tuple, or null.
template <typename Function, typename Members>
PyObject*& output_grad_dtypes(Function& function, Members& lacking) {
  if constexpr (requires { function.output_grad_dtypes; }) {
    return function.output_grad_dtypes;
  } else {
    return lacking.output_grad_dtypes;
  }
}

/// Whether backward gets its gradients as one list.
template <typename Function, typename Members>
bool& boxed_grads_call(Function& function, Members& lacking) {
  if constexpr (requires { function.boxed_grads_call; }) {
    return function.boxed_grads_call;
  } else {
    return lacking.boxed_grads_call;
  }
}

/// The flags of ctx.needs_input_grad that torch's own apply has noted in place
/// of a tuple; none if it has made the tuple, or nothing yet.
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
/// node that the outputs got as their history, if this torch tells.
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

/// How one of torch's messages ends. Before torch 2.14 these messages break
/// off.
template <typename... Args>
std::string message_end([[maybe_unused]] const Args&... args) {
#if TORCH_VERSION_MINOR >= 14
  return c10::str(args...);
#else
  return {};
#endif
}

#if TORCH_VERSION_MINOR >= 15
/// The members of torch's PySavedVariableHooks. That class can't be used: its
/// destructor is inline and needs a vtable that torch doesn't export.
struct PythonHooks : torch::autograd::SavedVariableHooks {
  std::optional<c10::SafePyObject> pack_hook_;
  std::optional<c10::SafePyObject> unpack_hook_;
  std::optional<c10::SafePyObject> data_;
};
#else
using PythonHooks = torch::autograd::PySavedVariableHooks;
#endif

/// The object behind a member that owns one, borrowed; null if there is none.
/// torch's members became a SafePyObject in 2.15.
inline PyObject* object_in(PyObject* member) {
  return member;
}
inline PyObject* object_in(const std::optional<c10::SafePyObject>& member) {
  return member ? member->ptr(getPyInterpreter()) : nullptr;
}

/// Whether torch's own apply takes keyword arguments.
constexpr bool kApplyTakesKeywords = TORCH_VERSION_MINOR >= 13;

/// Whether torch's own apply is written in C++. It then has no parameter named
/// `cls` that a keyword could collide with, and compares setup_context by
/// identity to see whether it is overridden.
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

// Private names of torch's Python modules.
constexpr const char* kSingleLevelFunction = "_SingleLevelFunction";
constexpr const char* kSubclassOfFunction = "InplaceFunction";
constexpr const char* kFunctorchModule = "torch._C._functorch";
constexpr const char* kOnnxGlobalsModule =
    "torch.onnx._internal.torchscript_exporter._globals";
constexpr const char* kInferType = "_jit_try_infer_type"; // of torch._C

// --- What a node remembers in anomaly mode -----------------------------------

/// Metadata with a dict, which torch takes for its PyAnomalyMetadata as it takes
/// any: it reads the dict in the place where that class has it. That class takes
/// the GIL to make and to drop each dict; here the class derived from this one
/// does both.
class PythonMetadata : public torch::autograd::AnomalyMetadata {
 public:
  torch::autograd::PyAnomalyMetadata& as_torchs() {
    return static_cast<torch::autograd::PyAnomalyMetadata&>(
        static_cast<torch::autograd::AnomalyMetadata&>(*this));
  }
  /// Borrowed; null if there was no memory for it.
  PyObject* dict() const {
    return dict_;
  }

 protected:
  PyObject* dict_ = nullptr;
#if TORCH_VERSION_MINOR >= 15
  // It is a c10::SafePyObject there.
  [[maybe_unused]] c10::impl::PyInterpreter* interpreter_ = getPyInterpreter();
#endif
};

static_assert(
    sizeof(PythonMetadata) == sizeof(torch::autograd::PyAnomalyMetadata));

/// Whether torch finds the dict.
inline bool finds_dict() {
  struct Metadata final : PythonMetadata {
    Metadata() {
      dict_ = Py_None;
    }
  };
  Metadata metadata;
  return metadata.as_torchs().dict() == Py_None;
}

/// The dict of ours or torch's own metadata; null if there is none. Borrowed.
inline PyObject* dict_of(const torch::autograd::AnomalyMetadata* metadata) {
  if (const auto* ours = dynamic_cast<const PythonMetadata*>(metadata)) {
    return ours->dict();
  }
  using torch::autograd::PyAnomalyMetadata;
  auto* torchs = dynamic_cast<PyAnomalyMetadata*>(
      const_cast<torch::autograd::AnomalyMetadata*>(metadata));
  return torchs == nullptr ? nullptr : torchs->dict();
}

/// An Engine that passes on to another one what only some releases ask of it.
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

/// Takes a thread's object with this name away. Torch 2.11 can't, so that it is
/// null there from then on.
template <typename Objects>
void erase_thread_object(const std::string& name) {
  if constexpr (requires { Objects::erase(name); }) {
    Objects::erase(name);
  } else {
    Objects::set(name, nullptr);
  }
}

// The GIL guards everything that Python code can reach. On free-threaded Python
// these do; elsewhere they are empty.

#ifdef Py_GIL_DISABLED

constexpr bool kFreeThreaded = true;

/// Gives this thread `object` to itself while it lives, in the way that the GIL
/// would: other threads may take a turn when this one waits or runs Python
/// code.
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

using Mutex = std::recursive_mutex;

/// Holds the mutex while it lives, whatever Python code runs meanwhile.
class Lock {
 public:
  explicit Lock(Mutex& mutex) : mutex_(mutex) {
    if (!mutex_.try_lock()) {
      // Detached, since its holder may be waiting for all threads to stop.
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

/// Declares that `module` needs no GIL. Throws.
inline void need_no_gil(PyObject* module) {
  check_status(PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED));
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

inline void need_no_gil(PyObject* /*module*/) {}

#endif

// --- Python ------------------------------------------------------------------

/// The bytes that Python adds to an object of a heap type: the collector's head,
/// its dict and its weak references. 32, and 40 on 3.11.
constexpr size_t kMostAroundObject = 40;

/// Python has a pool for objects up to this many bytes; larger ones go to
/// malloc.
#ifdef Py_GIL_DISABLED
constexpr size_t kLargestPooledObject = SIZE_MAX; // one allocator for all
#else
constexpr size_t kLargestPooledObject = 512;
#endif

/// How many references there are to `object`, without those of the collector,
/// which is at `traversed`, in the tp_traverse that calls this.
inline Py_ssize_t references_in_collection(
    PyObject* object,
    [[maybe_unused]] const PyObject* traversed) {
#ifdef Py_GIL_DISABLED
  // The collector looks at its garbage once more after the finalisers. Then it
  // has a reference to each piece, and counts the references from elsewhere in
  // ob_ref_local, which is 0 in a merged object at all other times.
  constexpr std::uint8_t kIsGarbage = 4; // _PyGC_BITS_UNREACHABLE
  const bool is_last_look =
      (__atomic_load_n(&traversed->ob_ref_shared, __ATOMIC_RELAXED) &
       _Py_REF_SHARED_FLAG_MASK) == _Py_REF_MERGED &&
      __atomic_load_n(&traversed->ob_ref_local, __ATOMIC_RELAXED) != 0;
  if (is_last_look && (object->ob_gc_bits & kIsGarbage) != 0) {
    return (object->ob_ref_shared >> _Py_REF_SHARED_SHIFT) - 1;
  }
#endif
  return Py_REFCNT(object);
}

/// The version tag of a type; 0 if it has none. No two types have the same tag,
/// and a type loses its tag when it or one of its bases is changed.
inline unsigned int type_version(const PyTypeObject* type) {
#ifdef Py_GIL_DISABLED
  // Another thread may be changing the type.
  return __atomic_load_n(&type->tp_version_tag, __ATOMIC_ACQUIRE);
#elif PY_VERSION_HEX >= 0x030D0000
  return type->tp_version_tag;
#else
  return PyType_HasFeature(
             const_cast<PyTypeObject*>(type), Py_TPFLAGS_VALID_VERSION_TAG)
      ? type->tp_version_tag
      : 0;
#endif
}

/// The attribute as it stands in the dict of the type or of a base, without a
/// descriptor call. Null, and no exception, if there is none.
inline Ref type_lookup(PyTypeObject* type, PyObject* name) {
#if PY_VERSION_HEX >= 0x030D0000
  return Ref::steal(_PyType_LookupRef(type, name));
#else
  return Ref::share(_PyType_Lookup(type, name));
#endif
}

#if PY_VERSION_HEX < 0x030B0000

/// A type that nobody uses, for version_tags_restarted().
inline Immortal tag_witness;

inline void init_version_tags() {
  tag_witness.set(checked(PyObject_CallFunction(
      reinterpret_cast<PyObject*>(&PyType_Type), "s(){}", "tag_witness")));
}

/// Whether Python may have given out version tags a second time since the last
/// call. Python 3.10 starts over after sys._clear_type_cache(), which takes the
/// tags from all types: also from one whose tag nothing else can have taken.
inline bool version_tags_restarted() {
  if (type_version(tag_witness.as_type()) != 0) {
    return false;
  }
  type_lookup(tag_witness.as_type(), names.apply); // gives it a tag
  return true;
}

#else

inline void init_version_tags() {}

constexpr bool version_tags_restarted() {
  return false;
}

#endif

/// The dict of a type.
inline Ref type_dict(PyTypeObject* type) {
#if PY_VERSION_HEX >= 0x030C0000
  return checked(PyType_GetDict(type));
#else
  return Ref::share(type->tp_dict);
#endif
}

// Exported by every Python, declared for extensions up to 3.12.
extern "C" PyAPI_FUNC(int)
    _PyObject_GetMethod(PyObject* object, PyObject* name, PyObject** method);

/// A method, bound only if that can't be avoided.
struct Method {
  Ref function;
  /// Whether the object itself has to be passed as the first argument.
  bool takes_self;
};

/// object.<name>. Throws what the lookup raises.
inline Method get_method(PyObject* object, PyObject* name) {
  PyObject* method = nullptr;
  const bool takes_self = _PyObject_GetMethod(object, name, &method) == 1;
  return {checked(method), takes_self};
}

/// The names of a code object's local variables, arguments first.
inline Ref code_varnames(PyCodeObject* code) {
#if PY_VERSION_HEX >= 0x030B0000
  return checked(PyCode_GetVarnames(code));
#else
  return Ref::share(code->co_varnames);
#endif
}

/// Whether something sees every Python frame that begins. torch.compile does,
/// in the whole process, from its first use on.
inline bool frames_are_watched() {
  return _PyInterpreterState_GetEvalFrameFunc(PyInterpreterState_Get()) !=
      _PyEval_EvalFrameDefault;
}

/// Whether a profiler of Python's is told of the calls that this thread makes:
/// cProfile, sys.setprofile() or a tool of sys.monitoring.
inline bool calls_are_profiled() {
#if PY_VERSION_HEX >= 0x030D0000
  thread_local PyMonitoringState state{};
  thread_local uint64_t version = 0;
  const uint8_t event = PY_MONITORING_EVENT_CALL;
  PyMonitoring_EnterScope(&state, &version, &event, 1);
  return state.active != 0;
#else
  PyThreadState* thread = PyThreadState_Get();
  if (thread->c_profilefunc != nullptr) {
    return true;
  }
#if PY_VERSION_HEX >= 0x030C0000
  // No function tells. The code that calls us does, since it is instrumented.
  // It is the first member of the interpreter's frame.
  constexpr int kCall = 4; // sys.monitoring.events.CALL == 1 << kCall
  const auto* frame = thread->cframe->current_frame;
  const auto* code = frame == nullptr
      ? nullptr
      : *reinterpret_cast<PyCodeObject* const*>(frame);
  return code != nullptr && code->_co_monitoring != nullptr &&
      code->_co_monitoring->active_monitors.tools[kCall] != 0;
#else
  return false;
#endif
#endif
}

// --- Python frames -----------------------------------------------------------
//
// Python's functions make an object for each frame that they are asked for, and
// its function then ends more slowly. The frames themselves cost nothing, but
// their layout is known only by Python's own header.

/// Calls `visit(PyCodeObject* code, int instruction)` for each Python frame of
/// this thread, innermost first, while it returns true. The code is borrowed
/// from the frame, and the instruction a byte offset into it.
template <typename Visit>
void for_each_frame_object(Visit&& visit) {
  Ref frame = Ref::steal(
      reinterpret_cast<PyObject*>(PyThreadState_GetFrame(PyThreadState_Get())));
  while (frame) {
    auto* current = reinterpret_cast<PyFrameObject*>(frame.get());
    const Ref code =
        Ref::steal(reinterpret_cast<PyObject*>(PyFrame_GetCode(current)));
#if PY_VERSION_HEX >= 0x030B0000
    const int instruction = PyFrame_GetLasti(current);
#else
    const int instruction =
        current->f_lasti * static_cast<int>(sizeof(_Py_CODEUNIT));
#endif
    if (!visit(reinterpret_cast<PyCodeObject*>(code.get()), instruction)) {
      return;
    }
    frame = Ref::steal(reinterpret_cast<PyObject*>(PyFrame_GetBack(current)));
  }
}

#if TORCH_EXT_KNOWS_FRAMES

/// The same by the interpreter's own frames.
template <typename Visit>
void for_each_inner_frame(Visit&& visit) {
#if PY_VERSION_HEX >= 0x030D0000
  auto* frame = PyThreadState_Get()->current_frame;
#else
  auto* frame = PyThreadState_Get()->cframe->current_frame;
#endif
  for (; frame != nullptr; frame = frame->previous) {
    // One that is just being entered, or stands for a call from C.
    if (_PyFrame_IsIncomplete(frame)) {
      continue;
    }
#if PY_VERSION_HEX >= 0x030D0000
    PyCodeObject* code = _PyFrame_GetCode(frame);
#else
    PyCodeObject* code = frame->f_code;
#endif
    const int instruction = _PyInterpreterFrame_LASTI(frame) *
        static_cast<int>(sizeof(_Py_CODEUNIT));
    if (!visit(code, instruction)) {
      return;
    }
  }
}

/// Whether both give the same, here.
inline bool inner_frames_agree() {
  std::vector<std::pair<PyCodeObject*, int>> frames;
  const auto note = [&](PyCodeObject* code, int instruction) {
    frames.emplace_back(code, instruction);
    return true;
  };
  for_each_frame_object(note);
  const auto expected = std::exchange(frames, {});
  for_each_inner_frame(note);
  return frames == expected;
}

/// A Python that was built in another way than its header says is left to its
/// own functions.
inline bool inner_frames_are_known() {
  static const bool are_known = inner_frames_agree();
  return are_known;
}

#endif

/// The quicker of the two that is right for the running Python.
template <typename Visit>
void for_each_frame(Visit&& visit) {
#if TORCH_EXT_KNOWS_FRAMES
  if (inner_frames_are_known()) {
    return for_each_inner_frame(std::forward<Visit>(visit));
  }
#endif
  for_each_frame_object(std::forward<Visit>(visit));
}

} // namespace torch_ext::compat
