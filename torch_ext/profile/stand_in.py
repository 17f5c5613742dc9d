# SPDX-License-Identifier: BSD-3-Clause
"""What a call of a Function would have cost on stock torch, without calling the user's code again.

A stand-in is a Function that is called as the user's is: with the same parameters and defaults, and the same numbers
and kinds of inputs, outputs and saved tensors, each of one element. Its forward and backward compute nothing. It is
called by turns on stock torch and on torch_ext, and the difference is what is measured.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from .. import _C, _compat
from ..lint.patching import arguments_of

_CALLS = 100
_ROUNDS = 15

_FORWARD = """
def forward({declared}):
    {set_up}
    return __outputs()
"""


@dataclass(frozen=True)
class _Like:
    """A tensor's kind."""

    dtype: torch.dtype
    device: torch.device
    requires_grad: bool

    def make(self, requires_grad: bool = False) -> torch.Tensor:
        return torch.zeros((), dtype=self.dtype, device=self.device, requires_grad=requires_grad)


@dataclass(frozen=True)
class Shape:
    """All that is kept of a call. Holds neither tensors nor the class.

    Args:
        inputs, outputs: what they are; None for what is no tensor.
        is_single: whether the output is no tuple.
        saved: how many tensors it has saved.
        recorded: whether it has made a node.
        has_setup: whether setup_context sets up ctx, and forward doesn't take it.
        arguments: how forward declares its arguments.
        defaults, keyword_defaults: how many of them have defaults, and which.
    """

    inputs: tuple[_Like | None, ...]
    outputs: tuple[_Like | None, ...]
    is_single: bool
    saved: int
    recorded: bool
    has_setup: bool
    arguments: dict[str, str]
    defaults: int
    keyword_defaults: tuple[str, ...]


@dataclass(frozen=True)
class Extra:
    """How many seconds longer a call takes on stock torch than on torch_ext."""

    forward: float
    backward: float


def shape_of(cls: Any, args: tuple[Any, ...], result: Any, saved: int, recorded: bool) -> Shape:
    """What a call of ``cls`` with ``args`` was like, which returned ``result``."""
    outputs = result if isinstance(result, tuple) else (result,)
    forward = cls.forward
    return Shape(
        tuple(map(_like, args)),
        tuple(map(_like, outputs)),
        not isinstance(result, tuple),
        saved,
        recorded,
        cls.setup_context is not _C.torch_function.setup_context,
        arguments_of(forward),
        len(getattr(forward, "__defaults__", None) or ()),
        tuple(getattr(forward, "__kwdefaults__", None) or ()),
    )


def _like(value: Any) -> _Like | None:
    if not _compat.is_tensor(value):
        return None
    with _compat.without_overrides():
        return _Like(value.dtype, value.device, value.requires_grad)


def measure(shape: Shape) -> Extra | None:
    """Calls the stand-in for ``shape``; None if one can't be made."""
    collects = gc.isenabled()
    gc.disable()
    try:
        with torch.set_grad_enabled(shape.recorded):
            return _measure(shape)
    except (AttributeError, RuntimeError, SyntaxError, TypeError, ValueError):  # a call that can't be copied
        return None
    finally:
        if collects:
            gc.enable()


def _measure(shape: Shape) -> Extra:
    cls = _build(shape)
    sides = [apply.__get__(None, cls) for apply in (_C.torch_apply, _C.apply)]
    inputs = [None if each is None else each.make(each.requires_grad) for each in shape.inputs]
    needing = [each for each in inputs if each is not None and each.requires_grad]
    rounds: list[list[tuple[float, float]]] = []
    for number in range(_ROUNDS + 1):
        times = [(0.0, 0.0), (0.0, 0.0)]
        for side in (0, 1) if number % 2 else (1, 0):
            times[side] = _calls(sides[side], inputs, needing, shape.recorded)
        rounds.append(times)
    # The fastest of each, which nothing has disturbed; the first round has warmed up.
    stock, ours = (tuple(map(min, zip(*side, strict=True))) for side in zip(*rounds[1:], strict=True))
    return Extra((stock[0] - ours[0]) / _CALLS, (stock[1] - ours[1]) / _CALLS)


def _calls(
    apply: Callable[..., Any], inputs: list[Any], needing: list[torch.Tensor], recorded: bool
) -> tuple[float, float]:
    """How long a number of calls takes, and their backward."""
    start = perf_counter()
    results = [apply(*inputs) for _ in range(_CALLS)]
    forward = perf_counter() - start
    if not (recorded and needing):
        return forward, 0.0
    flat = [each for result in results for each in (result if isinstance(result, tuple) else (result,))]
    outputs = [each for each in flat if each is not None and each.requires_grad]
    gradients = [torch.zeros_like(each) for each in outputs]
    start = perf_counter()
    torch.autograd.grad(outputs, needing, gradients, allow_unused=True)
    return forward, perf_counter() - start


def _build(shape: Shape) -> Any:
    saved = [torch.zeros(()) for _ in range(shape.saved)]
    gradients = tuple(each and (each.make() if each.requires_grad else None) for each in shape.inputs)
    flat = [bool(each and not each.requires_grad and each.dtype.is_floating_point) for each in shape.outputs]

    def outputs() -> Any:
        made = tuple(each and each.make() for each in shape.outputs)
        return made[0] if shape.is_single else made

    def set_up(ctx: Any) -> None:
        if saved:
            ctx.save_for_backward(*saved)

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        set_up(ctx)
        if shape.recorded and any(flat):
            made = output if isinstance(output, tuple) else (output,)
            ctx.mark_non_differentiable(*(each for each, is_flat in zip(made, flat, strict=True) if is_flat))

    set_up_text = "pass" if shape.has_setup else f"__set_up(({shape.arguments['positional']})[0])"
    scope: dict[str, Any] = {"__outputs": outputs, "__set_up": set_up}
    exec(_FORWARD.format(set_up=set_up_text, **shape.arguments), scope)
    forward = scope["forward"]
    forward.__defaults__ = (None,) * shape.defaults
    forward.__kwdefaults__ = dict.fromkeys(shape.keyword_defaults)
    methods = {"forward": staticmethod(forward), "backward": staticmethod(lambda ctx, *_: gradients)}
    if shape.has_setup:
        methods["setup_context"] = staticmethod(setup_context)
    return type("StandIn", (torch.autograd.Function,), methods)
