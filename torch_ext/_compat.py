# SPDX-License-Identifier: BSD-3-Clause
"""What the Python part of torch_ext knows of torch's internals: differences between releases, and private names.

The C++ part has its own, in ``csrc/compat.h``.
"""

import contextlib
import functools
import math
import sys
from collections.abc import Callable, Iterator
from types import ClassMethodDescriptorType, CodeType, MemberDescriptorType
from typing import Any, NoReturn

import torch
from torch._C import _ImperativeEngine
from torch._C._dynamo import eval_frame
from torch.autograd.function import BackwardCFunction, FunctionCtx, FunctionMeta, once_differentiable
from torch.autograd.variable import Variable
from torch.torch_version import TorchVersion

from . import _C

# --- What newer releases have ---------------------------------------------------------------------


def set_output_grad_dtype(self: Any, *dtypes: torch.dtype | None) -> None:
    """Declares the dtype in which backward gets the gradient of each output.

    Call it at most once, in ``forward`` or ``setup_context``, with a value for
    each output: a dtype, which the engine converts the gradient to, or None, which
    leaves the gradient as it comes. For an output that is not a differentiable
    tensor only None is valid. Without a call each gradient comes in its output's
    dtype.

    Raises:
        RuntimeError: it is called a second time. ``apply`` raises it if the dtypes
            don't fit the outputs.
    """
    if self.output_grad_dtypes is not None:
        raise RuntimeError("set_output_grad_dtype can only be called once")
    self.output_grad_dtypes = dtypes


def input_grad_buffers(self: FunctionCtx) -> NoReturn:
    """The engine's buffers for the gradients of the inputs: torch 2.15 has them.

    Raises:
        AttributeError: always, on this torch.
    """
    raise AttributeError(f"ctx.input_grad_buffers needs torch 2.15 or newer, and this is torch {torch.__version__}")


def make_apply_to_gradients() -> Callable[..., Any]:
    """A function that calls backward, as ``grad_fn.apply(*gradients)`` does.

    It knows itself: once this module is reloaded, our classes have one that the module doesn't have any more.
    """

    def apply(self: Any, *gradients: Any) -> Any:
        # With one list if this asks for that. A class that has become another's has no such attribute; torch itself
        # asks for none here.
        if getattr(self._forward_cls, "boxed_grads_call", False):
            gradients = (list(gradients),)
        # What torch's class has, or what somebody has set on it: our class has this function in its place.
        ours: Any = next(cls for cls in type(self).__mro__ if vars(cls).get("apply") is apply)
        return super(ours, self).apply(*gradients)

    return apply


def ctx_backports() -> dict[str, object]:
    """What the newest torch's ctx has and this torch's lacks."""
    backports: dict[str, object] = {}
    if not hasattr(FunctionCtx, "set_output_grad_dtype"):
        backports["set_output_grad_dtype"] = set_output_grad_dtype
        backports["output_grad_dtypes"] = _C.output_grad_dtypes
    if not hasattr(FunctionCtx, "input_grad_buffers"):
        backports["input_grad_buffers"] = property(input_grad_buffers)
    if not hasattr(BackwardCFunction, "apply_boxed"):
        backports["apply"] = make_apply_to_gradients()
        backports["apply_boxed"] = BackwardCFunction.apply
    return backports


def give_backports(cls: type[torch.autograd.Function]) -> None:
    """Gives ``cls`` and its subclasses what the newest torch's Function has."""
    if not hasattr(_C.torch_function, "boxed_grads_call"):
        cls.boxed_grads_call = False
    _C.give_backports(cls, ctx_backports())


def refresh_view(tensor: object) -> None:
    """Does what ``Tensor.register_hook`` does first from torch 2.15 on.

    If the base of a view was changed in place, reading ``grad_fn`` creates a new node and drops the old hooks.
    """
    if TorchVersion(torch.__version__) >= "2.15":
        getattr(tensor, "grad_fn", None)


# --- Functions and their classes ------------------------------------------------------------------


def has_node(grad_fn: torch.autograd.graph.Node) -> bool:
    """Whether there is a node behind ``grad_fn``: before torch 2.13 the ctx of a Function may outlive its node."""
    try:
        # Not its metadata: reading that would make it.
        type(grad_fn).next_functions.__get__(grad_fn)
    except RuntimeError:
        return False
    return True


#: The descriptors that only pass the class on: of Python, of C, and what accelerate() puts into a class.
_PLAIN_APPLIES = (classmethod, ClassMethodDescriptorType, type(_C.apply_for(_C.torch_function)))
_NOTHING = object()


def function_of(attribute: object) -> object:
    """The function behind an ``apply`` as it stands in a class; any other descriptor is its own."""
    return getattr(attribute, "__func__", attribute) if type(attribute) in _PLAIN_APPLIES else attribute


def owner_of_apply(cls: type) -> type:
    """The class in whose dict ``cls.apply`` stands."""
    return next(each for each in cls.__mro__ if "apply" in vars(each))


def set_apply(cls: Any, apply: object) -> None:
    """Puts ``apply`` into ``cls``. If that fails, by a metaclass that refuses it, ``cls`` has what it had."""
    before = vars(cls).get("apply", _NOTHING)
    try:
        cls.apply = apply
    except BaseException:
        if vars(cls).get("apply", _NOTHING) is not before:
            if before is _NOTHING:
                type.__delattr__(cls, "apply")
            else:
                type.__setattr__(cls, "apply", before)
        raise


#: What a once_differentiable backward runs.
ONCE_DIFFERENTIABLE = once_differentiable(lambda ctx: None).__code__


def is_base_function(cls: type) -> bool:
    """Whether ``cls`` is a base of Functions that torch or torch_ext has, or none of a Function at all."""
    own = (_C.torch_function.__module__, "torch._functorch.autograd_function", "torch_ext.function")
    return issubclass(_C.torch_function, cls) or cls.__module__ in own


def function_metaclass() -> Any:
    """The metaclass of all Functions."""
    return FunctionMeta


def is_ctx(value: object) -> bool:
    """Whether ``value`` is what a Function's forward gets; not what stands for it in a transform or a compiler."""
    return issubclass(type(value), torch._C._FunctionBase)


def runs_plainly() -> bool:
    """Whether a Function that is called now runs by itself: no transform, tracer or compiler looks on."""
    return not (
        torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.compiler.is_compiling()
    )


# --- The engine and torch.compile -----------------------------------------------------------------


ENGINE_NAME = "torch.autograd.Variable._execution_engine"


def get_engine() -> Any:
    """The object that torch's Python code calls to run backward."""
    return Variable._execution_engine


def set_engine(engine: Any) -> None:
    """Makes torch's Python code call ``engine`` to run backward."""
    Variable._execution_engine = engine


def is_torchs_engine(engine: object) -> bool:
    """Whether ``engine`` is of torch's own class."""
    return type(engine) is _ImperativeEngine


def torchs_engine() -> Any:
    """The engine that torch's Python code calls; one like torch's own while it calls somebody else's."""
    engine = get_engine()
    return engine if is_torchs_engine(engine) else _ImperativeEngine()


#: Returns what torch.compile calls for each new frame; None if it looks at none.
get_eval_frame_callback = eval_frame.get_eval_frame_callback


def pass_over_frame(code: CodeType) -> None:
    """Makes torch.compile pass over frames that run ``code``, but not over those that they call."""
    action = eval_frame._FrameAction
    eval_frame.set_code_exec_strategy(code, eval_frame._FrameExecStrategy(action.SKIP, action.DEFAULT))


def hide_key() -> None:
    """Hides the dispatch key by which operators are observed from those that are in Python: they refuse foreign keys.

    For good, since a thread keeps the key until it sees that the mode is off.
    """
    original: Any = torch._ops._compute_keyset
    if hasattr(original, "hides_key"):
        return

    @functools.wraps(original)
    def compute_keyset(*args: Any) -> Any:
        if not _C.observes_operators():
            return original(*args)
        _C.observe_operators(False)
        try:
            return original(*args)
        finally:
            _C.observe_operators(True)

    compute_keyset.hides_key = True  # type: ignore[attr-defined]
    torch._ops._compute_keyset = compute_keyset


def has_compiled() -> bool:
    """Whether torch.compile was used in this process. Its guards look at dispatch keys."""
    module = sys.modules.get("torch._dynamo.eval_frame")
    # None is there for what is never compiled: each optimizer says so of its methods.
    return any(backend is not None for backend in getattr(module, "cached_backends", {}).values())


# --- Looking at tensors and nodes -----------------------------------------------------------------


def is_tensor(value: object) -> bool:
    """As isinstance(), which would ask an object of another class for its ``__class__``."""
    return torch.Tensor in type(value).__mro__


@contextlib.contextmanager
def without_overrides() -> Iterator[None]:
    """A context in which no code of a tensor's subclass or of a mode runs."""
    with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
        yield


def without_autocast() -> Any:
    """A context in which autocast does nothing."""
    return torch._C._DisableAutocast()


def strided_values(tensor: torch.Tensor) -> torch.Tensor:
    """The values of a tensor; if it is sparse, those that it stores."""
    if tensor.layout == torch.sparse_coo:
        return tensor._values()  # values() is for coalesced ones
    return tensor if tensor.layout == torch.strided else tensor.values()


def is_of_torch(node: Any) -> bool:
    """Whether ``node`` belongs to one of torch's operators, and not to a Function."""
    return not isinstance(node, torch._C._FunctionBase)


def variable_of(node: Any) -> torch.Tensor | None:
    """The leaf whose gradient ``node`` accumulates; None if it is no such node."""
    return node.variable if is_of_torch(node) and hasattr(type(node), "variable") else None


def saved_attribute(node: Any, name: str) -> Any:
    """What ``node`` has saved as ``name``; None if there is no such thing, it is gone, or it is a tensor.

    A tensor is in :func:`saved_tensors`: reading it here would run the user's unpack hook.
    """
    return None if hasattr(type(node), f"_raw_saved_{name}") else _get(node, f"_saved_{name}")


def results_of(node: Any) -> list[tuple[int, torch.dtype]]:
    """The number of elements and the dtype of each of the operator's results; empty if they can't be told."""
    try:
        return [(math.prod(each.shape), each.dtype) for each in node._input_metadata]
    except (AttributeError, RuntimeError, TypeError):
        return []


def saved_tensors(node: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that ``node`` has saved or accumulates into, with names; without those that a user's hook unpacks."""
    variable = variable_of(node)
    if variable is not None:
        yield "variable", variable
    for label, raw, several in _raw_saved(node):
        # _saved_self and the like on torch's nodes, saved_tensors on a Function's.
        name = f"_saved_{label}" if hasattr(type(node), f"_saved_{label}") else f"saved_{label}"
        if all(_get(each, "unpack_hook", True) is None for each in raw):
            for index, tensor in enumerate(_as_tuple(_get(node, name))[0]):
                if isinstance(tensor, torch.Tensor):
                    yield (f"{label}[{index}]" if several else label), tensor


def raw_saved_tensors(node: Any) -> Iterator[tuple[str, Any]]:
    """What ``node`` has saved, with names, as torch keeps it; without what a user's hook unpacks or is freed."""
    for label, raw, several in _raw_saved(node):
        for index, each in enumerate(raw):
            if _get(each, "unpack_hook", True) is None:
                yield (f"{label}[{index}]" if several else label), each


def hooked_tensors(node: Any) -> int:
    """How many of the tensors that ``node`` has saved a user's hook unpacks."""
    return sum(_get(each, "unpack_hook") is not None for _, raw, _ in _raw_saved(node) for each in raw)


def _raw_saved(node: Any) -> Iterator[tuple[str, tuple[Any, ...], bool]]:
    """(name, what ``node`` has saved under it as torch keeps it, whether that is several)."""
    for raw_name in dir(type(node)):
        if raw_name.startswith("_raw_saved_"):
            yield raw_name.removeprefix("_raw_saved_"), *_as_tuple(_get(node, raw_name))


def data_of_saved(raw: Any) -> torch.Tensor | None:
    """The tensor behind a saved one, whatever has become of it; None if there is none."""
    data = _get(raw, "data")
    return data if isinstance(data, torch.Tensor) else None


def memory_of(tensor: torch.Tensor) -> int | None:
    """Which memory a tensor is in; None if it has none of its own."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None


def address_of(tensor: torch.Tensor) -> int | None:
    """Where the memory of a tensor begins, which two storages may share; None if it has none."""
    try:
        return tensor.untyped_storage().data_ptr() or None
    except (NotImplementedError, RuntimeError):
        return None


def version_of(tensor: torch.Tensor) -> int | None:
    """How often a tensor was changed in place; None if nobody counts."""
    version = _get(tensor, "_version")
    return version if isinstance(version, int) else None


def error_of_saved(node: Any, name: str, raw: Any) -> str | None:
    """The text of the error that reading what ``node`` has saved as ``name`` raises, "" for none.

    None if it can't be read by itself: what a Function has saved, before torch 2.13. Of an output of a Function the
    text is another one.
    """
    try:
        if hasattr(type(node), f"_saved_{name}"):
            getattr(node, f"_saved_{name}")
        elif hasattr(raw, "unpack"):
            raw.unpack()
        else:
            return None
    except (RuntimeError, TypeError) as error:
        return str(error)
    return ""


#: In the place of a value that the engine has freed, and of what a node has that another thread runs now.
FREED, BUSY = object(), object()


def kept_by(node: Any) -> Iterator[tuple[str, Any, Any]]:
    """(name, value, unpack hook) of what ``node`` keeps for backward; no hook runs, and no version is checked.

    A value is a tensor, what the user's hook made of it, FREED or BUSY. Of a Function's node also what stands on ctx.
    """
    for raw_name in dir(type(node)):
        if not raw_name.startswith("_raw_saved_"):
            continue
        label = raw_name.removeprefix("_raw_saved_")
        try:
            raw = _C.read_saved(node, raw_name)
        except RuntimeError:
            raw = ((FREED, None),)
        except AttributeError:
            continue
        if raw is None:
            yield label, BUSY, None
            continue
        unpacked = _unpacked(node, raw)
        several = len(raw) != 1 or not is_of_torch(node)
        for index, (data, hook) in enumerate(raw):
            if data is None and hook is None and _is_freed(node, raw_name):
                value = FREED
            else:
                value = unpacked[index] if unpacked else data
            if value is not None or hook is not None:
                yield (f"{label}[{index}]" if several else label), value, hook
    if not is_of_torch(node):
        for name, value in list(vars(node).items()):
            yield f"ctx.{name}", value, None


def _unpacked(node: Any, raw: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a Function has saved, if no hook would run: its outputs among it don't know otherwise whose they are."""
    if is_of_torch(node) or any(value is FREED or hook is not None for value, hook in raw):
        return ()
    return _get(node, "saved_tensors") or ()  # an error if one was changed in place


def _is_freed(node: Any, raw_name: str) -> bool:
    """Whether a saved tensor that isn't there was freed. One that never was reads as None."""
    try:
        getattr(node, raw_name.removeprefix("_raw"))
    except AttributeError:  # a Function's node: it raises for the raw ones too
        return False
    except RuntimeError:
        return True
    return False


def parts_of(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensors whose memory ``tensor`` uses: itself, the parts of a sparse one, those inside a subclass's."""
    with without_overrides(), torch.no_grad():
        if tensor.layout == torch.sparse_coo:
            return [tensor._indices(), tensor._values()]
        if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
            return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
        if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
            return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
        inner = [each for each in _attributes(tensor) if is_tensor(each)]
        if inner and type(tensor) not in (torch.Tensor, torch.nn.Parameter) and not address_of(tensor):
            return [part for each in inner for part in parts_of(each)]
    return [tensor]


def _attributes(tensor: torch.Tensor) -> Iterator[Any]:
    """What a tensor has as attributes of Python's; no code of its class runs."""
    yield from object.__getattribute__(tensor, "__dict__").values()
    for cls in type(tensor).__mro__:
        for slot in list(vars(cls).values()) if cls.__module__ != "builtins" else ():
            if isinstance(slot, MemberDescriptorType):
                with contextlib.suppress(AttributeError):
                    yield slot.__get__(tensor)


def storage_of(tensor: torch.Tensor) -> tuple[int, int, str] | None:
    """What tells a tensor's storage from others while it lives, its bytes, and its device; None if it has none."""
    try:
        with without_overrides():
            storage = tensor.untyped_storage()
            return storage._cdata, storage.nbytes(), str(storage.device)
    except (NotImplementedError, RuntimeError):
        return None


def form_of(tensor: torch.Tensor) -> tuple[tuple[int | str, ...], str]:
    """A tensor's shape, with symbols as text, and its dtype: "float32"."""
    with without_overrides():
        shape, dtype = tuple(tensor.shape), tensor.dtype
    return tuple(size if type(size) is int else str(size) for size in shape), str(dtype).removeprefix("torch.")


def is_node_class(cls: type) -> bool:
    """Whether ``cls`` is a class of graph nodes. torch.autograd.graph.Node would remember each that it is asked for."""
    return torch._C._FunctionBase in cls.__mro__ or ("next_functions" in vars(cls) and "_sequence_nr" in vars(cls))


def start_of(tensor: torch.Tensor) -> tuple[torch.autograd.graph.Node | None, torch.autograd.graph.Node | None]:
    """The node that made ``tensor``, and the one that made its grad, if it has one with a graph. Makes none."""
    try:
        with without_overrides():
            if not tensor.requires_grad:
                return None, None
            # A view that was changed gets a new node if it is asked for it, or whether it is a leaf. Its base has one.
            base = base_of(tensor) if tensor._is_view() and tensor._version != 0 else tensor
            if not base.is_leaf:
                return _C.node_of_root(base), None
            grad = tensor.grad if base is tensor else None
            return None, None if grad is None else start_of(grad)[0]
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):  # of a subclass, or of a transform's
        return None, None


def base_of(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor that ``tensor`` is a view of, or itself."""
    with without_overrides():
        return tensor._base if tensor._is_view() and tensor._base is not None else tensor


def forms_of_results(node: Any) -> list[tuple[tuple[int | str, ...], str]]:
    """The shape and the dtype of each of the operator's results; empty if they can't be told."""
    try:
        return [
            (
                tuple(size if type(size) is int else str(size) for size in each.shape),
                str(each.dtype).removeprefix("torch."),
            )
            for each in node._input_metadata
        ]
    except (AttributeError, RuntimeError, TypeError):
        return []


def _as_tuple(value: Any) -> tuple[tuple[Any, ...], bool]:
    """``value`` as a tuple, and whether it is one."""
    return (value, True) if isinstance(value, tuple) else ((value,), False)


def _get(obj: Any, name: str, default: Any = None) -> Any:
    """An attribute, or ``default`` if there is none or it has been freed."""
    try:
        return getattr(obj, name)
    except (AttributeError, RuntimeError):
        return default
