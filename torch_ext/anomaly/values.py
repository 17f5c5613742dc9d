# SPDX-License-Identifier: BSD-3-Clause
"""What is known of the values in a graph, as numbers.

A value is an output of a node in forward: "output 0 of SqrtBackward0" is what ``x.sqrt()`` returned. It is known if
some node has saved it, if it is a leaf, or if it follows from others by the rules of :mod:`torch_ext.anomaly.rules`.

Only looks: no hook runs, no user code unpacks a saved tensor, nothing is added to the graph.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.autograd.graph import Node

from .. import _C, _compat
from . import rules
from .facts import Sight, Value


def look(tensor: torch.Tensor) -> Value | None:
    """What the tensor holds; None if that can't be read (no values, a mode, a subclass)."""
    if not _C.can_be_read(tensor):
        return None
    try:
        # Looking must not run a subclass's or a mode's code, nor add to the graph.
        with _compat.without_overrides(), torch.no_grad():
            values = _compat.strided_values(tensor)
            if values.numel() == 0:
                return Value(largest=0.0)
            if not (values.is_floating_point() or values.is_complex()):
                values = values.double()
            magnitudes = values.abs()
            largest = float(magnitudes.max())
            if math.isfinite(largest):
                return Value(largest=largest)
            finite = magnitudes[magnitudes.isfinite()]
            largest = float(finite.max()) if finite.numel() else 0.0
            return Value(int(values.isnan().sum()), int(values.isinf().sum()), largest)
    except (RuntimeError, NotImplementedError, TypeError):
        return None


def sight(tensor: torch.Tensor, name: str, label: str) -> Sight | None:
    """What can be seen in a tensor; None if nothing can."""
    value = look(tensor)
    if value is None:
        return None
    source = source_of(tensor)
    producer, output = source or (None, 0)
    with _compat.without_overrides():
        return Sight(producer, output, name, label, value, tensor.requires_grad)


def source_of(tensor: torch.Tensor) -> tuple[int, int] | None:
    """The id of the metadata of the node that produced a tensor, and the number of the output; None if none did."""
    try:
        with _compat.without_overrides():
            producer = tensor.grad_fn
            return None if producer is None else (id(producer.metadata), tensor.output_nr)
    except (AttributeError, RuntimeError):  # a subclass that has none; a view that can't have one any more
        return None


def sights(node: Node, saved: Iterable[tuple[str, torch.Tensor]], tensors: dict[Any, torch.Tensor]) -> Iterator[Sight]:
    """What ``saved``, (name, tensor) by (name, tensor), shows of the values around ``node``.

    Its result is computed again if that can be done. ``tensors`` are values that are known besides.
    """
    node_name = type(node).name(node)
    by_name = {}
    for name, tensor in saved:
        by_name[name] = tensor
        seen = sight(tensor, name, f"{name} of {node_name}")
        if seen is not None:
            yield seen
    result = rules.replay(node, by_name, tensors)
    value = None if result is None else look(result)
    if value is not None:
        yield Sight(id(node.metadata), 0, "", f"the result of {node_name}, computed again", value, True)


def names_of_saved(node: Node, count: int) -> list[str]:
    """The names of ``count`` tensors that ``node`` has saved, in the order of its class's attributes."""
    prefix = "_raw_saved_"
    names = [name.removeprefix(prefix) for name in vars(type(node)) if name.startswith(prefix)]
    if len(names) == count:
        return names
    return [f"tensors[{index}]" for index in range(count)]
