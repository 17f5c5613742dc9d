# SPDX-License-Identifier: BSD-3-Clause
"""Running a Function on copies of example inputs, and comparing its gradients with numerical ones."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck

from .finding import Finding, find
from .reading import Reading
from .source import is_tensor

# What torch refuses in backward, in words of its own.
_EXPLAINS = {"gradient-count", "gradient-form", "changed-input", "not-returned"}
_EXPLAINS_DOUBLE = {"saved-intermediate", "not-differentiable"}
# From this number of elements on torch compares along random directions.
_MANY = 100


def run(cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any], findings: list[Finding]) -> None:
    """Calls ``cls`` and its backward: with all inputs that require grad, and with each of them alone.

    Raises what they raise, unless ``findings``, to which somebody else adds, says why.
    """
    chosen = _chosen(args)
    for needed in [chosen, *([index] for index in chosen if len(chosen) > 1)]:
        values = [_copy(each, index in needed) for index, each in enumerate(args)]
        with same_random_numbers(args):
            try:
                outputs = _differentiable(cls.apply(*map(_no_leaf, values), **kwargs))
                if outputs:
                    with torch.enable_grad():
                        gradients = [torch.randn_like(each).requires_grad_() * 1 for each in outputs]
                    torch.autograd.grad(
                        outputs, [values[index] for index in needed], gradients, create_graph=True, allow_unused=True
                    )
            except (RuntimeError, TypeError, ValueError):
                if not any(each.kind in _EXPLAINS for each in findings):
                    raise
                return


def compare(cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any], known: Iterable[Finding]) -> Iterator[Finding]:
    """Says for which inputs the gradients disagree with numerical ones."""
    kinds = {each.kind for each in known}
    if kinds & _EXPLAINS:
        return
    it = Reading(cls)
    doubles = [to_double(each) for each in args]
    place = ("", 0) if it.backward is None else it.backward.at(it.backward.node)
    for index in _chosen(args):
        name = it.inputs[index] if index < len(it.inputs) else f"input {index}"
        call = _call_with(cls, doubles, kwargs, index)
        try:
            with same_random_numbers(args):
                call(_copy(doubles[index], True))
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            return  # not in float64
        options = {"check_undefined_grad": False, "nondet_tol": 1e-6, "fast_mode": args[index].numel() > _MANY}
        if _disagrees(gradcheck, call, doubles[index], options):
            yield find("wrong-gradient", cls, place, name)
            continue
        is_silent = it.backward is not None and not it.backward.once and not kinds & _EXPLAINS_DOUBLE
        if is_silent and _disagrees(gradgradcheck, call, doubles[index], options):
            yield find("wrong-double-gradient", cls, place, name)


def _disagrees(checks: Any, call: Callable[[torch.Tensor], Any], value: torch.Tensor, options: dict[str, Any]) -> bool:
    try:
        checks(call, (_copy(value, True),), **options)
    except GradcheckError:
        return True
    except RuntimeError:
        if checks is gradgradcheck:  # it refuses a double backward, which is no wrong one
            return False
        raise
    return False


def _call_with(cls: Any, args: list[Any], kwargs: dict[str, Any], index: int) -> Callable[[torch.Tensor], Any]:
    def call(value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = [_copy(each, False) for each in args]
        values[index] = _no_leaf(value)
        with same_random_numbers(args):
            return tuple(_differentiable(cls.apply(*values, **kwargs)))

    return call


@contextlib.contextmanager
def same_random_numbers(args: Iterable[Any]) -> Iterator[None]:
    """A context with torch's random numbers as from one seed, of the CPU and of the GPUs of ``args``."""
    devices = {each.device for each in args if is_tensor(each) and each.device.type == "cuda"}
    with torch.random.fork_rng(sorted(devices, key=str)):
        torch.manual_seed(0)
        yield


def _chosen(args: tuple[Any, ...]) -> list[int]:
    """The inputs to differentiate for."""
    able = [index for index, each in enumerate(args) if is_tensor(each) and _has_derivative(each)]
    return [index for index in able if args[index].requires_grad] or able


def _has_derivative(value: torch.Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _differentiable(output: Any) -> list[torch.Tensor]:
    values = output if isinstance(output, (tuple, list)) else [output]
    return [each for each in values if is_tensor(each) and each.requires_grad]


def _copy(value: Any, requires_grad: bool) -> Any:
    """A copy of a tensor, also of those in a list, tuple or dict; those keep whether they require grad."""
    if is_tensor(value):
        return value.detach().clone().requires_grad_(requires_grad)
    return _in_container(value, lambda each: _copy(each, each.requires_grad))


def to_double(value: Any) -> Any:
    """A tensor, or those in a list, tuple or dict, in float64 or complex128, without their graph."""
    if is_tensor(value):
        dtype = torch.complex128 if value.is_complex() else torch.float64
        return value.detach().to(dtype) if _has_derivative(value) else value.detach()
    return _in_container(value, lambda each: to_double(each).requires_grad_(each.requires_grad))


def _in_container(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    if is_tensor(value):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(_in_container(each, change) for each in value)
    if type(value) is dict:
        return {key: _in_container(each, change) for key, each in value.items()}
    return value


def _no_leaf(value: Any) -> Any:
    """What a Function may change in place: a leaf that requires grad it may not."""
    return value.clone() if is_tensor(value) and value.requires_grad else value
