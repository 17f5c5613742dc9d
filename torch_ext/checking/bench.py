# SPDX-License-Identifier: BSD-3-Clause
"""What a call of one Function costs on stock torch, on torch_ext, and at least."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .. import _compat
from ..compare.running import as_list, gradients_of, our_apply, stock_apply
from ..timing import Block, Result, clock_of, length, timed_rounds
from .inputs import Call

_BLOCK = 2e-3  # seconds


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: what is timed.
        result: stock torch, the reference, and torch_ext; in microseconds.
        node: the same of a node in C++; None if there is nothing to compare with.
    """

    name: str
    result: Result
    node: float | None


def bench(
    cls: Any, call: Call, rounds: int = 100, block: float = _BLOCK, on_round: Callable[[], None] = lambda: None
) -> list[Row]:
    """Times a Function on stock torch, on torch_ext, and a node in C++, in one process and in turns.

    - forward: ``apply`` with the arguments of ``call``.
    - overhead: that, less ``forward`` (and ``setup_context``) called directly, without a graph. The node in C++ is
      torch's ``view_as`` of the first tensor that requires grad, all of it: the least to expect of a call that makes a
      node.
    - forward and backward: with ``torch.autograd.grad``; for the node too.

    A tensor that the Function changes is copied before each call, in what is subtracted too. Functions that this one
    calls run on the side on which they would run anyway.

    Args:
        cls: a subclass of ``torch.autograd.Function``.
        call: the arguments; all tensors on one device.
        rounds: how often each is timed, at least 2.
        block: how long a block of calls lasts at least, in seconds.
        on_round: called after each round.

    Raises:
        Exception: what forward or backward raises.
    """
    probes = _Probes(cls, call)
    clock = clock_of(probes.device)
    blocks = {name: Block(each, name != "direct", clock) for name, each in probes.calls.items()}
    whole = [each for name, each in blocks.items() if name in ("stock", "ours")]
    number = length(whole, block)
    backward = [each for name, each in blocks.items() if name in ("stock, backward", "ours, backward")]
    backward_number = length(backward, block) if backward else 0
    numbers = {each: backward_number if name.endswith("backward") else number for name, each in blocks.items()}
    times: dict[str, list[float]] = {name: [] for name in blocks}
    for seconds in timed_rounds(numbers, rounds):
        for name, each in blocks.items():
            times[name].append(seconds[each])
        on_round()
    return _rows(times)


class _Probes:
    """What is called.

    Attributes:
        calls: by name.
        device: where the tensors are.
    """

    def __init__(self, cls: Any, call: Call) -> None:
        self._cls, self._call = cls, call
        tensors = [each for each in (*call.args, *call.kwargs.values()) if _compat.is_tensor(each)]
        self._leaves = [each for each in tensors if each.requires_grad]
        self.device = tensors[0].device if tensors else torch.device("cpu")
        stock, ours = stock_apply(cls), our_apply(cls)
        self._is_changed = self._find_changed(stock)
        self.calls = {"stock": self._forward(stock), "ours": self._forward(ours), "direct": self._direct()}
        if self._leaves:
            start = self._leaves[0]
            self.calls["node"] = lambda: start.view_as(start)
            if any(_compat.is_tensor(each) and each.requires_grad for each in as_list(self.calls["stock"]())):
                gradient = torch.ones_like(start)
                self.calls["stock, backward"] = self._backward(stock)
                self.calls["ours, backward"] = self._backward(ours)
                self.calls["node, backward"] = lambda: torch.autograd.grad(start.view_as(start), start, gradient)

    def _find_changed(self, apply: Any) -> tuple[bool, ...]:
        args, kwargs, _ = self._call.copied().fresh()
        before = [_compat.version_of(each) if _compat.is_tensor(each) else None for each in args]
        apply(*args, **kwargs)
        after = [_compat.version_of(each) if _compat.is_tensor(each) else None for each in args]
        return tuple(one != other for one, other in zip(before, after, strict=True))

    def _arguments(self) -> Callable[[], tuple[Any, ...]]:
        args = self._call.args
        if not any(self._is_changed):
            return lambda: args
        pairs = list(zip(args, self._is_changed, strict=True))
        return lambda: tuple(each.clone() if is_changed else each for each, is_changed in pairs)

    def _forward(self, apply: Any) -> Callable[[], Any]:
        kwargs, args = self._call.kwargs, self._call.args
        if any(self._is_changed):
            fresh = self._arguments()
            return lambda: apply(*fresh(), **kwargs)
        return lambda: apply(*args, **kwargs)

    def _direct(self) -> Callable[[], Any]:
        forward, setup, kwargs = self._cls.forward, self._cls.setup_context, self._call.kwargs
        fresh = self._arguments()
        ctx = _NoContext(self._call.args)
        if setup is torch.autograd.Function.setup_context:
            return lambda: forward(ctx, *fresh(), **kwargs)

        def both() -> None:
            args = fresh()
            setup(ctx, (*args, *kwargs.values()), forward(*args, **kwargs))

        return both

    def _backward(self, apply: Any) -> Callable[[], Any]:
        forward, leaves = self._forward(apply), self._leaves
        _, gradients = gradients_of(as_list(forward()), leaves)

        def call() -> Any:
            roots = [each for each in as_list(forward()) if _compat.is_tensor(each) and each.requires_grad]
            return torch.autograd.grad(roots, leaves, gradients, allow_unused=True)

        return call


class _NoContext:
    """Stands in for ctx in direct calls."""

    def __init__(self, args: tuple[Any, ...]) -> None:
        self.needs_input_grad = tuple(_compat.is_tensor(each) and each.requires_grad for each in args)

    def save_for_backward(self, *tensors: Any) -> None:
        pass

    save_for_forward = mark_dirty = mark_non_differentiable = save_for_backward

    def set_materialize_grads(self, value: bool) -> None:
        pass

    def set_output_grad_dtype(self, *dtypes: Any) -> None:
        pass


def _rows(times: dict[str, list[float]]) -> list[Row]:
    def difference(one: str, other: str) -> list[float]:
        return [max(left - right, 1e-9) for left, right in zip(times[one], times[other], strict=True)]

    def row(name: str, stock: list[float], ours: list[float], node: str) -> Row:
        median = Result.of(zip(times[node], times[node], strict=True)).ours if node in times else None
        return Row(name, Result.of(zip(stock, ours, strict=True)), median)

    rows = [
        row("forward", times["stock"], times["ours"], ""),
        row("overhead of forward", difference("stock", "direct"), difference("ours", "direct"), "node"),
    ]
    if "stock, backward" in times:
        rows.append(row("forward and backward", times["stock, backward"], times["ours, backward"], "node, backward"))
    return rows
