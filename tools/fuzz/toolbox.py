# SPDX-License-Identifier: BSD-3-Clause
"""What programs call."""

import contextlib
import copy
import gc
import pickle
import threading
import warnings
import weakref
from collections import namedtuple

import torch
from harness import registering
from harness.anomaly_text import printing
from harness.describe import metadata_of
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.checkpoint import checkpoint

# fmt: off
__all__ = [
    "LogDispatch", "LogFunctions", "Marked", "Pair", "Wrapper", "anomaly", "attempt", "batched", "checkpoint", "copy",
    "dead_wrapper", "default_dtype", "deterministic", "differentiate", "doubled", "finish", "fit", "fits", "gc", "hook",
    "hooks_of", "in_inference_mode", "in_thread", "make_fx", "metadata_of", "mix", "next_node", "node_of", "ones_like",
    "order", "packing", "pick", "pickle", "product", "profiled", "raising", "reentrant", "removes_itself", "retaining",
    "same", "shapes", "slope_of", "summed", "to_front", "warnings", "weak_node", "weighed", "with_duals", "with_grad",
    "without_grad",
]
# fmt: on

Pair = namedtuple("Pair", "first second")


class Marked(torch.Tensor):
    """A subclass that does nothing."""


class Wrapper(torch.Tensor):
    """A subclass around another tensor."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner):
        self.inner = inner.detach()

    def __repr__(self):
        return f"Wrapper({self.inner.tolist()})"

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        args, kwargs = tree_map_only(cls, lambda t: t.inner, (args, kwargs or {}))
        return tree_map_only(torch.Tensor, cls, operator(*args, **kwargs))


class LogFunctions(TorchFunctionMode):
    """Records each function of torch that is called."""

    def __init__(self, s):
        super().__init__()
        self.s = s

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.s.record("function", getattr(function, "__name__", "?"))
        return function(*args, **(kwargs or {}))


class LogDispatch(TorchDispatchMode):
    """Records each operator."""

    def __init__(self, s):
        super().__init__()
        self.s = s

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.s.record("operator", str(operator))
        return operator(*args, **(kwargs or {}))


# The frame of a program


def attempt(s, label, call):
    """What ``call()`` returns, recorded; None if it raises, which is recorded too."""
    outcomes = vars(s).setdefault("outcomes", [])
    try:
        result = call()
        # An error of ours while we look at the result must not be taken for an error of the call.
        outcomes.append("returned")
    except BaseException as error:
        outcomes.append(type(error).__name__)
        if "saw_anomaly_mode" in vars(s):
            _drop_notes(error)
        s.record(f"{label} raised", error)
        return None
    s.record(f"{label} returned", result)
    return result


def _drop_notes(error):
    """Remove what torch_ext adds to exceptions in anomaly mode, as documented."""
    while error is not None:
        vars(error).pop("__notes__", None)
        error = error.__cause__ or error.__context__


def finish(s, *inputs):
    """Record what is left of the program's inputs and of torch's modes."""
    s.record("inputs at the end", inputs)
    modes = {
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "level": forward_ad._current_level,
        "tangents": torch._C._is_fwd_grad_enabled(),
        "transforms": torch._C._are_functorch_transforms_active(),
        "saved tensors": torch._C._autograd._saved_tensors_hooks_is_enabled(),
        "node": torch._C._current_autograd_node(),
        "dtype": torch.get_default_dtype(),
        "autocast": torch.is_autocast_enabled("cpu"),
    }
    s.record("modes at the end", modes)
    registering.empty_the_queue()


# Tensors


def pick(value, number=0):
    """A tensor from what a step returned; ones if there is none."""
    tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
    return tensors[number % len(tensors)] if tensors else torch.ones(2, 3, requires_grad=True)


def shapes(*values):
    """The shape of each tensor, None for anything else."""
    return [value.shape if isinstance(value, torch.Tensor) else None for value in values]


def mix(values):
    """All tensors multiplied; those of another shape by their sum."""
    total = None
    for value in tree_leaves(list(values)):
        if isinstance(value, torch.Tensor):
            total = value if total is None else total * (value if value.shape == total.shape else value.sum())
    return total


def product(a, b):
    """The matrix product. Torch leaves that of a meta tensor and another tensor uninitialised."""
    if a.device != b.device:
        raise ValueError("on two devices")
    return a @ b


def fit(tensor, shape):
    """The tensor, brought to a shape."""
    if tensor is None or shape is None:
        return None
    return tensor if tensor.shape == shape else tensor.sum().expand(shape)


def fits(tensor, several):
    return tuple(fit(tensor, shape) for shape in several)


def weighed(tensor):
    """A number, different for tensors of different values, and with a derivative that depends on them."""
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    weights = torch.linspace(1, 2, tensor.numel(), dtype=tensor.real.dtype if tensor.is_floating_point() else None)
    total = (tensor * tensor * weights.reshape(tensor.shape)).sum()
    return total.real if total.is_complex() else total


def summed(function):
    """The function, giving one number."""
    return lambda *args: weighed(pick(function(*args)))


def ones_like(values):
    return tree_map_only(torch.Tensor, torch.ones_like, values)


def with_grad(function, tensor):
    with torch.enable_grad():
        return function(tensor)


def without_grad(make):
    with torch.no_grad():
        return make()


def in_inference_mode(function, tensor):
    with torch.inference_mode():
        return function(tensor)


def slope_of(function, tensor):
    """The derivative of a function, by autograd."""
    with torch.enable_grad():
        x = tensor.detach().requires_grad_()
        return torch.autograd.grad(function(x).sum(), x)[0]


def retaining(tensor):
    tensor.retain_grad()
    return tensor


def dead_wrapper(tensor):
    """What is left of a tensor inside torch.func.grad."""
    left = []
    torch.func.grad(lambda x: left.append(x) or (x * 2).sum())(tensor)
    return left[0]


# Differentiation


def differentiate(s, output, leaves):
    """Gradients, and the gradients of those."""
    leaves = [leaf for leaf in leaves if leaf.requires_grad]
    first = torch.autograd.grad(weighed(output), leaves, create_graph=True, allow_unused=True)
    s.record("gradients", first)
    again = [grad for grad in first if grad is not None and grad.requires_grad]
    return torch.autograd.grad([weighed(grad) for grad in again], leaves, allow_unused=True)


def reentrant(function):
    """A backward of its own, through a Function."""
    with torch.enable_grad():
        x = torch.ones(2, 3, requires_grad=True)
        y = pick(function(x * 2))
        y.sum().backward()


def with_duals(function, *inputs, s=None, leaves=()):
    """The function's outputs and their tangents; given leaves, the derivatives of a tangent too."""
    with forward_ad.dual_level():
        duals = [
            forward_ad.make_dual(x, torch.ones_like(x) * (i + 2)) if isinstance(x, torch.Tensor) else x
            for i, x in enumerate(inputs)
        ]
        result = function(*duals)
        unpacked = tree_map_only(torch.Tensor, lambda t: tuple(forward_ad.unpack_dual(t)), result)
        return (unpacked, differentiate(s, pick(unpacked, 1), leaves)) if leaves else unpacked


def to_front(args, in_dims):
    """The arguments of a vmap rule, with the batch in front."""
    return [arg if dim is None else arg.movedim(dim, 0) for arg, dim in zip(args, in_dims, strict=True)]


def batched(outputs):
    """What a vmap rule returns for outputs that have the batch in front."""
    return outputs, tree_map(lambda t: 0 if isinstance(t, torch.Tensor) else None, outputs)


# Hooks


def hooks_of(s):
    """The ways to register hooks, torch's and torch_ext's in turn if both are there."""
    if "hooks" not in vars(s):
        s.hooks = registering.hooks_of(s)
    return s.hooks


def node_of(value):
    """A tensor's node, or a node itself. torch_ext's functions reject None in other words than torch's methods."""
    node = value.grad_fn if isinstance(value, torch.Tensor) else value
    if node is None:
        raise ValueError("there is no node")
    return node


def next_node(tensor):
    return node_of(node_of(tensor).next_functions[0][0])


def order(s, node):
    """Run the node later than its number says; the numbers before and after."""
    before = node._sequence_nr()
    node._set_sequence_nr(before + 5)
    return s.sequence_nr(before), s.sequence_nr(node._sequence_nr())


def weak_node(s, node):
    """What the last weak reference to a node returns by now; creates a new one."""
    last = getattr(s, "weak_node", lambda: None)()
    s.weak_node = weakref.ref(node)
    return last


def hook(s, result=lambda *args: None):
    """A hook that records its arguments and returns ``result`` of them."""

    def called(*args):
        s.record("hook", args)
        return result(*args)

    return called


def raising(*args):
    raise ValueError("in a hook")


def same(value):
    return value


def doubled(grads, *_):
    return tuple(None if grad is None else grad * 2 for grad in grads)


def removes_itself(s, register, target):
    def called(*args):
        s.record("hook that goes", args)
        handle.remove()

    handle = register(target, called)


# Contexts


def packing(s, pack_raises=False, unpack_raises=False, unpacked=None, in_place=False):
    """saved_tensors_hooks that record."""

    def pack(tensor):
        s.record("pack", tensor.shape, tensor.requires_grad, torch.is_grad_enabled())
        if pack_raises:
            raise ValueError("in pack")
        return tensor.detach().mul_(2) if in_place else tensor

    def unpack(packed):
        s.record("unpack", packed.shape, torch.is_grad_enabled())
        if unpack_raises:
            raise ValueError("in unpack")
        return packed if unpacked is None else unpacked

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


@contextlib.contextmanager
def anomaly(s, check_nan=True):
    """The implementation's anomaly mode. Warnings are recorded without frames of plumbing, as documented."""
    s.saw_anomaly_mode = True
    with printing(s), s.detect_anomaly(check_nan=check_nan):
        yield


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def in_thread(call):
    """What the call returns on a thread of its own."""
    outcome = []

    def run():
        try:
            outcome.append((call(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    result, error = outcome.pop()
    try:
        if error is not None:
            raise error
        return result
    finally:
        # Its traceback has this frame, and stock's one more, which holds the arguments.
        del error


def profiled(s, call):
    """The events that the profiler sees."""
    with torch.autograd.profiler.profile() as profile:
        result = call()
    s.record("events", [event.name for event in profile.function_events])
    return result
