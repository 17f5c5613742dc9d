# SPDX-License-Identifier: BSD-3-Clause
"""What a call in forward was given that returned values that are not finite."""

from collections.abc import Sequence

import torch
from torch.autograd.graph import Node

from .. import _C, _compat
from .birth import Finding
from .facts import Argument, Origin, Value
from .graph import origin_of
from .places import at
from .values import look


def describe(tensors: Sequence[tuple[str, torch.Tensor, bool]]) -> tuple[Argument, ...]:
    """The arguments of a call: (name, tensor, whether the call has changed it) of each, without those of integers."""
    with _compat.without_overrides():
        numbers = [each for each in tensors if each[1].is_floating_point() or each[1].is_complex()]
        shapes = [tuple(tensor.shape) for _, tensor, _ in numbers]
    arguments = []
    for (name, tensor, is_changed), shape in zip(numbers, shapes, strict=True):
        value = None if is_changed or not _C.has_numbers(tensor) else look(tensor)
        nans, infs = (None, None) if value is None else (value.nans, value.infs)
        maker = None if is_changed else _C.node_of_root(tensor)
        arguments.append(Argument(name, shape, nans, infs, _origin_of(maker)))
    return tuple(arguments)


def find(node: Node, value: Value, label: str, arguments: Sequence[Argument]) -> Finding:
    """Where ``value``, which the forward call of ``node`` returned, became not finite: there or in what it was given.

    What has a node itself was checked when it was made.
    """
    bad = [each for each in arguments if each.nans or (each.infs and not value.nans)]
    unknown = any(each.nans is None for each in arguments) and _has_edge_from_outside(node)
    return Finding(node, not unknown or bool(bad), not unknown and not bad, label, value)


def note(node_name: str, arguments: Sequence[Argument]) -> str:
    """The note for the arguments of a call."""
    lines = [f"  {each.name} of shape {each.shape}{_maker_of(each)}: {_state_of(each)}" for each in arguments]
    return "\n".join([f"The forward call of {node_name} was given", *lines]) if lines else ""


def _origin_of(maker: Node | None) -> Origin | None:
    if maker is None or _compat.variable_of(maker) is not None:
        return None
    return origin_of(maker)


def _has_edge_from_outside(node: Node) -> bool:
    """Whether what the call has changed, its first argument, had no node before."""
    return not node.next_functions or node.next_functions[0][0] is None


def _maker_of(argument: Argument) -> str:
    return "" if argument.maker is None else f", made by {argument.maker.name}{at(argument.maker.frames)}"


def _state_of(argument: Argument) -> str:
    if argument.nans is None:
        return "changed by the call, or not known"
    if argument.nans or argument.infs:
        return f"{argument.nans} NaN, {argument.infs} infinite"
    return "finite"
