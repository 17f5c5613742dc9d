# SPDX-License-Identifier: BSD-3-Clause
"""The methods of a Function as syntax trees, and what can be told of the values in them."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import torch

from .. import _compat

Names = frozenset[str]
NOTHING: Names = frozenset()


@dataclass
class Method:
    """A method of a Function, as it is written.

    Args:
        name: "forward", "setup_context", "backward" or "vjp".
        node: its definition, with the line numbers of the file; None without source.
        place: its file and first line.
        once: whether it is once_differentiable.
        binding: "static", "class", or "" for a plain function.
        parameters: the names of its positional parameters, ctx and self included.
        rest: the name of its ``*args``, if any.
    """

    name: str
    node: ast.FunctionDef | None
    place: tuple[str, int]
    once: bool
    binding: str
    parameters: tuple[str, ...]
    rest: str | None
    required: int

    def at(self, node: ast.AST | None) -> tuple[str, int]:
        """The place of a part of it; its own if there is none."""
        return self.place if node is None else (self.place[0], getattr(node, "lineno", self.place[1]))

    def nodes(self) -> Iterator[ast.AST]:
        """All that its body consists of, without what nested functions and classes consist of."""
        return walk(self.node.body) if self.node is not None else iter(())

    def has_name(self, *names: str) -> bool:
        """Whether an attribute or a variable with one of the names is in it."""
        return any(
            (isinstance(node, ast.Attribute) and node.attr in names)
            or (isinstance(node, ast.Name) and node.id in names)
            for node in self.nodes()
        )


def walk(body: list[Any]) -> Iterator[ast.AST]:
    """The nodes of ``body`` in the order of the source, without those inside nested functions and classes."""
    for node in body:
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            yield from walk(list(ast.iter_child_nodes(node)))


def read_method(cls: type, name: str) -> Method | None:
    """The method that ``cls.name`` is; None if it is torch's default, or nothing that can be read."""
    owner = next((each for each in cls.__mro__ if name in vars(each)), None)
    if owner is None or _compat.is_base_function(owner):
        return None
    there = vars(owner)[name]
    binding = {staticmethod: "static", classmethod: "class"}.get(type(there), "")
    function = getattr(there, "__func__", there)
    once = False
    while True:
        once = once or getattr(function, "__code__", None) is _compat.ONCE_DIFFERENTIABLE
        inner = getattr(function, "__wrapped__", None)
        if inner is None:
            break
        function = inner
    if type(function) is not FunctionType:
        return None
    if not binding and function.__qualname__ != f"{owner.__qualname__}.{name}":
        binding = "static"  # put there by a program, which knows what it does
    code = function.__code__
    names = code.co_varnames
    rest = names[code.co_argcount + code.co_kwonlyargcount] if code.co_flags & inspect.CO_VARARGS else None
    return Method(
        name,
        _definition(function),
        (code.co_filename, code.co_firstlineno),
        once,
        binding,
        names[: code.co_argcount],
        rest,
        code.co_argcount - len(function.__defaults__ or ()),
    )


def _definition(function: FunctionType) -> ast.FunctionDef | None:
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError, TypeError):
        return None
    ast.increment_lineno(tree, max(first - 1, 0))
    node = tree.body[0] if tree.body else None
    return node if isinstance(node, ast.FunctionDef) else None


# --- What a value comes from ----------------------------------------------------------------------

_FACTS = frozenset("shape dtype device layout ndim requires_grad is_cuda is_leaf names itemsize nbytes".split())
# Their results don't depend on the values of what they are given, or not in a way that has a derivative.
_FLAT = frozenset(
    """size dim ndimension numel stride type isinstance len element_size is_contiguous storage_offset is_complex
    is_floating_point zeros_like ones_like empty_like full_like rand_like randn_like randint_like new_zeros new_ones
    new_empty new_full zeros ones empty full rand randn randint randperm arange bernoulli multinomial argmax argmin
    argsort argwhere nonzero unique sign signbit sgn floor ceil round trunc isnan isinf isfinite eq ne lt le gt ge
    logical_and logical_or logical_not logical_xor bool int long short byte is_tensor allclose equal heaviside
    searchsorted bucketize histc bincount one_hot is_inference hasattr tril_indices triu_indices""".split()
)


def called(node: ast.AST) -> str:
    """The last name of what a call calls; "" for anything else."""
    if not isinstance(node, ast.Call):
        return ""
    func = node.func
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""


@dataclass
class Flow:
    """What each variable of a method comes from, so far.

    Args:
        sources: variables that are known, and where from.
        saved: what a value in ``ctx.saved_tensors`` comes from.
    """

    sources: dict[str, Names]
    ctx: str = "ctx"
    saved: Names = NOTHING
    assigned: dict[str, list[ast.expr]] = field(default_factory=dict)

    def follow(self, method: Method) -> "Flow":
        """Looks at all assignments of ``method``; twice, since a loop may use what it assigns later."""
        for _ in range(2):
            for node in method.nodes():
                if isinstance(node, ast.Assign):
                    for target in node.targets:
                        self._assign(target, node.value)
                elif isinstance(node, (ast.AugAssign, ast.AnnAssign)) and node.value is not None:
                    self._assign(node.target, node.value, isinstance(node, ast.AugAssign))
                elif isinstance(node, (ast.For, ast.comprehension)):
                    self._assign(node.target, node.iter)
                elif isinstance(node, ast.NamedExpr):
                    self._assign(node.target, node.value)
        return self

    def _assign(self, target: ast.expr, value: ast.expr, adds: bool = False) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            same = isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts)
            values = value.elts if same and isinstance(value, (ast.Tuple, ast.List)) else [value] * len(target.elts)
            for each, its in zip(target.elts, values, strict=True):
                self._assign(each, its, adds)
        elif isinstance(target, ast.Starred):
            self._assign(target.value, value, adds)
        elif isinstance(target, ast.Name):
            names = self.of(value)
            self.sources[target.id] = self.sources.get(target.id, NOTHING) | names
            values = self.assigned.setdefault(target.id, [])
            if not adds and value not in values:
                values.append(value)

    def of(self, node: ast.AST | None) -> Names:
        """What the value of an expression depends on."""
        if node is None or isinstance(node, (ast.Compare, ast.Constant)):
            return NOTHING
        if isinstance(node, ast.Name):
            return self.sources.get(node.id, NOTHING)
        if isinstance(node, ast.Attribute):
            if node.attr == "saved_tensors" and isinstance(node.value, ast.Name) and node.value.id == self.ctx:
                return self.saved
            return NOTHING if node.attr in _FACTS else self.of(node.value)
        if isinstance(node, ast.Subscript):
            return self.of(node.value)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return NOTHING
        if isinstance(node, ast.IfExp):
            return self.of(node.body) | self.of(node.orelse)
        if isinstance(node, ast.Call) and called(node) in _FLAT:
            return NOTHING
        return NOTHING.union(*(self.of(child) for child in ast.iter_child_nodes(node)))


# --- Calls of ctx ---------------------------------------------------------------------------------


def calls_of(method: Method, name: str) -> Iterator[ast.Call]:
    """The calls of ctx.name() in ``method``."""
    for node in method.nodes():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name:
            yield node


def is_nested_autograd(method: Method) -> bool:
    """Whether a backward builds and differentiates a graph of its own, as a checkpoint does."""
    return method.has_name("enable_grad", "set_grad_enabled") or any(
        called(node) in ("grad", "backward") for node in method.nodes()
    )


def is_tensor(value: Any) -> bool:
    """Whether ``value`` is a tensor; runs no code of its class."""
    return issubclass(type(value), torch.Tensor)
