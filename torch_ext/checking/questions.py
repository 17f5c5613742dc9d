# SPDX-License-Identifier: BSD-3-Clause
"""What is asked of a Function on each side. A question returns what it has seen, or raises."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.autograd.gradcheck import gradcheck as torch_gradcheck

from .. import _compat
from ..compare.recording import Record
from ..compare.running import as_list, call, gradient_like, gradients_of, see_all
from ..lint.comparing import same_random_numbers, to_double
from ..lint.reading import Reading
from .inputs import Call

_MANY = 100  # elements, from which on gradcheck goes along random directions
_BATCH = 3
_CALLS = 10


class NotAskedError(Exception):
    """The question makes no sense here; the text says why."""


class NoError(Exception):
    """The answer is no; the text says why."""


@dataclass(frozen=True)
class Tried:
    """A Function, and a call of it on one side.

    Attributes:
        cls: the class.
        apply: its ``apply`` on the side.
        call: the arguments.
    """

    cls: Any
    apply: Callable[..., Any]
    call: Call


def outputs(tried: Tried) -> Record:
    """Whether forward runs."""
    return call(tried.apply, tried.call.copied())[0]


def gradients(tried: Tried) -> Record:
    """Whether backward runs."""
    return see_all("gradient", _gradients(tried)[0])


def double_gradients(tried: Tried) -> Record:
    """Whether backward can be differentiated."""
    backward = Reading(tried.cls).backward
    if backward is not None and backward.once:
        raise NotAskedError("backward is once_differentiable")
    first, incoming, leaves = _gradients(tried, create_graph=True)
    second, _ = gradients_of(first, [*leaves, *incoming])
    if not second:
        raise NotAskedError("the gradients don't depend on anything")
    return see_all("double gradient", second)


def _gradients(tried: Tried, create_graph: bool = False) -> tuple[list[Any], list[torch.Tensor], list[torch.Tensor]]:
    _, results, leaves = call(tried.apply, tried.call.copied())
    found, incoming = gradients_of(results, leaves, create_graph)
    if not incoming:
        raise NotAskedError("no output requires grad")
    return found, incoming, leaves


def forward_mode(tried: Tried) -> Record:
    """Whether jvp runs."""
    if not _defines(tried.cls, "jvp"):
        raise NotAskedError("it has no jvp")
    numbers = torch.Generator().manual_seed(0)
    args, kwargs, _ = tried.call.copied().fresh()

    def dual(value: Any) -> Any:
        able = _compat.is_tensor(value) and (value.is_floating_point() or value.is_complex())
        return forward_ad.make_dual(value, gradient_like(value, numbers)) if able else value

    with forward_ad.dual_level():
        results = as_list(tried.apply(*map(dual, args), **kwargs))
        tangents = [forward_ad.unpack_dual(each).tangent for each in results if _compat.is_tensor(each)]
        return see_all("tangent", tangents)


def gradcheck(tried: Tried) -> Record:
    """Whether the gradients, and the tangents, agree with numerical ones, in float64."""
    double = tried.call.changed(to_double)
    arguments = double.copied()
    try:
        with same_random_numbers(double.args):
            _, results, leaves = call(tried.apply, arguments)
    except Exception as error:
        raise NotAskedError(f"forward doesn't take float64: {type(error).__name__}: {error}") from error
    differentiable = [index for index, each in enumerate(results) if _compat.is_tensor(each) and each.requires_grad]
    if not differentiable:
        raise NotAskedError("no output requires grad")
    chosen = [index for index, each in enumerate(double.args) if _compat.is_tensor(each) and each.requires_grad]
    if not chosen:
        raise NotAskedError("no positional argument requires grad")

    def function(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        args, kwargs, _ = arguments.fresh()
        passed = list(args)
        for index, value in zip(chosen, values, strict=True):
            passed[index] = value.clone()
        with same_random_numbers(double.args):
            found = as_list(tried.apply(*passed, **kwargs))
        return tuple(found[index] for index in differentiable)

    starts = [double.args[index].detach().clone().requires_grad_() for index in chosen]
    is_large = sum(each.numel() for each in leaves) > _MANY
    has_jvp = _defines(tried.cls, "jvp")
    torch_gradcheck(function, starts, fast_mode=is_large, check_forward_ad=has_jvp, nondet_tol=1e-6)
    return {}


def vmap(tried: Tried) -> Record:
    """Whether a batch gives what its elements give one after the other."""
    if not (_defines(tried.cls, "vmap") or getattr(tried.cls, "generate_vmap_rule", False)):
        raise NotAskedError("it has no vmap, and no generate_vmap_rule")
    args, kwargs, _ = tried.call.copied().fresh()
    dims = tuple(0 if _compat.is_tensor(each) else None for each in args)
    if not any(dim == 0 for dim in dims):
        raise NotAskedError("no argument is a tensor")
    batched = [torch.stack([each.detach()] * _BATCH) if _compat.is_tensor(each) else each for each in args]
    with torch.no_grad():
        results = as_list(
            torch.vmap(lambda *each: tried.apply(*each, **kwargs), dims, randomness="different")(*batched)
        )
        before = torch.get_rng_state()
        single = as_list(tried.apply(*(each.detach() if _compat.is_tensor(each) else each for each in args), **kwargs))
        if torch.equal(before, torch.get_rng_state()):
            _check_close("vmap", results, [torch.stack([each] * _BATCH) for each in single if _compat.is_tensor(each)])
    return see_all("batched output", results)


def compiled(tried: Tried) -> Record:
    """Whether torch.compile takes it whole, with what compiled code gives. The backend needs no compiler."""
    apply = tried.apply

    def program(*args: Any, **kwargs: Any) -> Any:
        return apply(*args, **kwargs)

    torch.compiler.reset()
    try:
        function = torch.compile(program, fullgraph=True, backend="aot_eager")
        _, results, leaves = call(function, tried.call.copied())
        found, _ = gradients_of(results, leaves)
    finally:
        torch.compiler.reset()
    return see_all("compiled output", results) | see_all("compiled gradient", found)


def leaks(tried: Tried) -> Record:
    """Whether all that a call and its backward have made is gone afterwards, without the garbage collector."""
    arguments = tried.call.copied()

    def once() -> None:
        _, results, leaves = call(tried.apply, arguments)
        gradients_of(results, leaves)

    once()  # what is kept from the first call on is no leak
    with _only_new_objects():
        before = _alive()
        for _ in range(_CALLS):
            once()
        at_once = _alive() - before
        gc.collect()
        at_last = _alive() - before
    if at_last >= _CALLS:
        raise NoError(f"{at_last // _CALLS} tensors and nodes of each call stay")
    if at_once >= _CALLS:
        raise NoError(f"{at_once // _CALLS} tensors and nodes of each call stay until the garbage collector runs")
    return {}


@contextlib.contextmanager
def _only_new_objects() -> Iterator[None]:
    """A context in which the garbage collector runs if it is called only, and knows none of the many older objects."""
    was_enabled, is_free = gc.isenabled(), gc.get_freeze_count() == 0
    gc.collect()
    gc.disable()
    if is_free:  # otherwise the program has frozen some, and could not get these back alone
        gc.freeze()
    try:
        yield
    finally:
        if is_free:
            gc.unfreeze()
        if was_enabled:
            gc.enable()


def _alive() -> int:
    """How many tensors and nodes of Functions Python knows."""
    return sum(1 for each in gc.get_objects() if _compat.is_tensor(each) or _compat.is_ctx(each))


def _check_close(what: str, results: list[Any], expected: list[torch.Tensor]) -> None:
    tensors = [each for each in results if _compat.is_tensor(each)]
    for index, (one, other) in enumerate(zip(tensors, expected, strict=True)):
        if one.shape != other.shape or not torch.allclose(one, other, equal_nan=True):
            raise NoError(f"{what} gives other values for output {index} than the calls one after the other")


def _defines(cls: Any, name: str) -> bool:
    """Whether a Function has ``name`` from a class of its own."""
    return any(name in vars(each) and not _compat.is_base_function(each) for each in cls.__mro__)


#: The questions by name, in the order in which they are asked.
QUESTIONS: dict[str, Callable[[Tried], Record]] = {
    "outputs": outputs,
    "gradients": gradients,
    "double gradients": double_gradients,
    "forward AD": forward_mode,
    "gradcheck": gradcheck,
    "vmap": vmap,
    "compile": compiled,
    "leaks": leaks,
}
