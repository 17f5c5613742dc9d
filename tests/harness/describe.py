# SPDX-License-Identifier: BSD-3-Clause
"""Plain data for everything a scenario records, so that two runs can be compared as text.

A description holds no reference to what it describes: recording never keeps an object alive.
"""

import collections
import contextlib
import hashlib
import itertools
import pathlib
import re
import traceback
import types
import weakref

import torch
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad

_HARNESS = pathlib.Path(__file__).parent
_TESTS = _HARNESS.parent
# The Functions in it are the scenarios' own.
_SMALL_FUNCTIONS = _HARNESS / "small_functions.py"
_NO_SEQUENCE_NR = 2**64 - 1  # what AccumulateGrad has
_MAX_DEPTH = 8

_SAME_IN_BOTH = (
    (re.compile(r"0x[0-9a-fA-F]+"), "0x..."),
    # The sizes of jagged tensors are symbols, numbered in each process.
    (re.compile(r"\bj\d+\b"), "j..."),
    # Only the class in which `apply` is looked up has another name.
    (re.compile(r"\btorch_ext\.function\.Function\b"), "torch.autograd.function.Function"),
)


def normalise(text):
    """``text`` without what differs between two runs of one program."""
    for pattern, replacement in _SAME_IN_BOTH:
        text = pattern.sub(replacement, text)
    return text


def type_name(cls):
    return normalise(f"{cls.__module__}.{cls.__qualname__}").removeprefix("builtins.")


def render(label, description, indent=""):
    """The lines of text that show ``description``."""
    if isinstance(description, str):
        first, *rest = description.splitlines() or [""]
        yield f"{indent}{label}: {first}"
        yield from (f"{indent}  {line}" for line in rest)
        return
    yield f"{indent}{label}:"
    items = description.items() if isinstance(description, dict) else enumerate(description)
    for key, value in items:
        yield from render(key, value, indent + "  ")


class Describer:
    """Describes the objects of one run of a scenario.

    Tensors, nodes and exceptions get a number when they first appear, so that a transcript shows which of them
    are the same object.
    """

    def __init__(self, device=torch.device("cpu")):
        self._numbers = {}
        self._next_number = itertools.count(1)
        self._first_sequence_nr = torch._C._autograd._get_sequence_nr()
        self._threads_are_young = device.type == "cpu"

    def __call__(self, obj, depth=0):
        if depth > _MAX_DEPTH:
            return "..."
        for kind, describe in self._KINDS:
            if isinstance(obj, kind):
                return describe(self, obj, depth)
        return self._object(obj, depth)

    def _named(self, obj, facts):
        number = self.identity(obj)
        return {type_name(type(obj)) + ("" if number is None else f" #{number}"): facts}

    def identity(self, obj):
        """A number for ``obj``; None if it can't be referred to weakly (a node implemented in C++)."""
        ref, number = self._numbers.get(id(obj), (lambda: None, None))
        if ref() is obj:
            return number
        try:
            ref = weakref.ref(obj)
        except TypeError:
            return None
        number = next(self._next_number)
        self._numbers[id(obj)] = ref, number
        return number

    def _get(self, obj, read, depth):
        """What ``read(obj)`` returns or raises, described."""
        try:
            value = read(obj)
        except Exception as error:
            return {"raises": f"{type_name(type(error))}: {normalise(str(error))}"}
        return self(value, depth + 1)

    # Tensors

    def _tensor(self, t, depth):
        with contextlib.ExitStack() as stack:
            # Looking must not run a subclass's or a mode's code, nor add to the graph.
            stack.enter_context(torch._C.DisableTorchFunction())
            stack.enter_context(torch._C._DisableTorchDispatch())
            stack.enter_context(torch.no_grad())
            tangent = self._tangent(t, depth)
            if torch._C._are_functorch_transforms_active():
                stack.enter_context(temporarily_clear_interpreter_stack())
            facts = {name: self._get(t, read, depth) for name, read in _TENSOR_FACTS.items()}
            facts["tangent"] = tangent
            facts["values"] = self._values(t, depth)
            if t._is_view():
                facts["base"] = self._get(t, lambda t: f"#{self.identity(t._base)} {tuple(t._base.shape)}", depth)
                facts["creation_meta"] = self._get(t, torch._C._autograd._get_creation_meta, depth)
            if facts["is_leaf"] == "True" or facts["retains_grad"] == "True":
                facts["grad"] = self._get(t, lambda t: t.grad, depth)
            facts["grad_fn"] = self._get(t, lambda t: t.grad_fn, depth)
        return self._named(t, facts)

    def _tangent(self, t, depth):
        if forward_ad._current_level < 0:
            return "None"
        return self._get(t, lambda t: forward_ad.unpack_dual(t).tangent, depth)

    def _values(self, t, depth):
        if _functorch.is_functorch_wrapped_tensor(t):
            return self._get(t, _functorch.get_unwrapped, depth)
        for is_layout, parts in _LAYOUTS:
            if is_layout(t):
                return {part.__name__: self._get(t, part, depth) for part in parts}
        if _is_wrapper(t):
            return {name: self(part, depth + 1) for name, part in vars(t).items() if isinstance(part, torch.Tensor)}
        try:
            return _bits(t)
        except Exception as error:
            return {"raises": f"{type_name(type(error))}: {normalise(str(error))}"}

    # Nodes

    def _node(self, node, depth):
        facts = {name: self._get(node, read, depth) for name, read in _NODE_FACTS.items()}
        facts["sequence_nr"] = self._get(node, lambda node: self.sequence_nr(node._sequence_nr()), depth)
        facts["next_functions"] = self._get(node, lambda node: node.next_functions, depth)
        if isinstance(node, torch._C._FunctionBase):
            facts |= {name: self._get(node, read, depth) for name, read in _PYTHON_NODE_FACTS.items()}
        return self._named(node, facts)

    def sequence_nr(self, sequence_nr):
        if sequence_nr == _NO_SEQUENCE_NR:
            return "none"
        relative = sequence_nr - self._first_sequence_nr
        if relative >= 0:
            return relative
        # Each thread counts for itself, and a new one begins low. A device's thread stays from one run to the next.
        return f"{sequence_nr} of another thread" if self._threads_are_young else "of another thread"

    # Exceptions

    def _exception(self, error, depth):
        facts = {
            "text": normalise(str(error)),
            "args": self(error.args, depth + 1),
            "cause": self(error.__cause__, depth + 1),
            "context": self(error.__context__, depth + 1),
            "notes": self(getattr(error, "__notes__", None), depth + 1),
            "lines": user_lines(error.__traceback__),
        }
        return self._named(error, facts)

    # Everything else

    def _sequence(self, items, depth):
        described = [self(item, depth + 1) for item in items]
        if all(isinstance(item, str) for item in described):
            return f"{type_name(type(items))}({', '.join(described)})"
        return {type_name(type(items)): described}

    def _mapping(self, mapping, depth):
        return {
            type_name(type(mapping)): {normalise(repr(key)): self(value, depth + 1) for key, value in mapping.items()}
        }

    def _set(self, items, depth):
        return {type_name(type(items)): sorted(normalise(repr(item)) for item in items)}

    def _weakref(self, ref, depth):
        return "weakref (dead)" if ref() is None else f"weakref to {type_name(type(ref()))}"

    def _type(self, cls, depth):
        return f"class {type_name(cls)}"

    def _callable(self, function, depth):
        return f"{type_name(type(function))} {normalise(function.__qualname__)}"

    def _object(self, obj, depth):
        return normalise(repr(obj))

    _KINDS = (
        (torch.Tensor, _tensor),
        (torch.autograd.graph.Node, _node),
        (BaseException, _exception),
        (torch.Size, _object),
        ((tuple, list, collections.deque), _sequence),
        (collections.abc.Mapping, _mapping),
        ((set, frozenset), _set),
        (weakref.ref, _weakref),
        (type, _type),
        ((types.FunctionType, types.BuiltinFunctionType, types.MethodType), _callable),
    )


_TENSOR_FACTS = {
    "dtype": lambda t: t.dtype,
    "device": lambda t: t.device,
    "layout": lambda t: t.layout,
    "shape": lambda t: t.shape,
    "stride": lambda t: t.stride(),
    "storage_offset": lambda t: t.storage_offset(),
    "requires_grad": lambda t: t.requires_grad,
    "is_leaf": lambda t: t.is_leaf,
    "retains_grad": lambda t: t.retains_grad,
    "output_nr": lambda t: t.output_nr,
    "version": lambda t: t._version,
    "is_inference": lambda t: t.is_inference(),
    "is_conj": lambda t: t.is_conj(),
    "is_neg": lambda t: t.is_neg(),
    "is_view": lambda t: t._is_view(),
}


def metadata_of(node):
    """What the engine knows about the gradients that a node gets."""
    return [
        (info.shape, info.dtype, info.device, info.is_nested_tensor, info.is_cpp_nested_tensor)
        for info in node._input_metadata
    ]


_NODE_FACTS = {
    "name": lambda node: node.name(),
    "repr": lambda node: repr(node),
    "metadata": lambda node: sorted(node.metadata),
    "requires_grad": lambda node: node.requires_grad,
    "input_metadata": metadata_of,
}

_PYTHON_NODE_FACTS = {
    "forward_cls": lambda node: node._forward_cls,
    "is_a_backward_cls": lambda node: isinstance(node, node._forward_cls._backward_cls),
    "is_a_BackwardCFunction": lambda node: isinstance(node, torch.autograd.function.BackwardCFunction),
    "needs_input_grad": lambda node: node.needs_input_grad,
    "attributes": lambda node: sorted(vars(node)),
}

_LAYOUTS = (
    (
        lambda t: t.layout == torch.sparse_coo,
        (torch.Tensor.is_coalesced, torch.Tensor.sparse_dim, torch.Tensor._indices, torch.Tensor._values),
    ),
    (
        lambda t: t.layout in (torch.sparse_csr, torch.sparse_bsr),
        (torch.Tensor.crow_indices, torch.Tensor.col_indices, torch.Tensor.values),
    ),
    (
        lambda t: t.layout in (torch.sparse_csc, torch.sparse_bsc),
        (torch.Tensor.ccol_indices, torch.Tensor.row_indices, torch.Tensor.values),
    ),
    (lambda t: t.is_nested and t.layout == torch.strided, (torch.Tensor.unbind,)),
)


def _is_wrapper(t):
    """Whether a subclass says that it has values, but has no memory of its own: it has them from other tensors."""
    if type(t).__torch_dispatch__ is torch.Tensor.__torch_dispatch__ or not t.numel():
        return False
    try:
        return t.untyped_storage().data_ptr() == 0
    except RuntimeError:  # what torch raises for a storage without memory
        return True


def _bits(t):
    """Every bit of a dense tensor's values, and their readable form."""
    dense = t.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(dense.view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
    return f"{dense.tolist() if dense.numel() <= 32 else '...'} sha256={digest}"


def is_of_scenarios(file):
    """Whether this file has scenarios' code: all of tests/ but the harness, which runs them."""
    path = pathlib.Path(file)
    return path.is_relative_to(_TESTS) and (path == _SMALL_FUNCTIONS or not path.is_relative_to(_HARNESS))


def user_lines(tb):
    """The frames of a traceback that are in scenarios' files: ``file:line function``."""
    lines = []
    for frame, line in traceback.walk_tb(tb):
        file = frame.f_code.co_filename
        if is_of_scenarios(file):
            # Python 3.10 has no qualified name.
            name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)
            lines.append(f"{pathlib.Path(file).name}:{line} {name}")
    return lines
