# SPDX-License-Identifier: BSD-3-Clause
"""From what users give to the nodes of its graph. Only looks: no node is made, and no code of a subclass runs."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.autograd.graph import GradientEdge, Node

from .. import _compat
from ..anomaly.birth import forward_order
from ..anomaly.graph import node_of


def roots_of(given: Any, caller: str) -> list[Node]:
    """The nodes that a backward from what was given to ``caller`` starts at, each once.

    Raises:
        TypeError: something in it is no tensor, node or gradient edge.
    """
    found: dict[Node, None] = {}
    _add(given, caller, found)
    return list(found)


def nodes_of(roots: Iterable[Node]) -> list[Node]:
    """All nodes that a backward from ``roots`` can run, those of forward's first operators first."""
    return forward_order(roots)


def _add(given: Any, caller: str, found: dict[Node, None]) -> None:
    if given is None:
        return
    if isinstance(given, (torch.Tensor, GradientEdge)):
        node = node_of(given)
        if node is not None:
            found.setdefault(node)
    elif isinstance(given, Node):
        if _compat.has_node(given):
            found.setdefault(given)
    elif isinstance(given, Mapping):
        for each in given.values():
            _add(each, caller, found)
    elif isinstance(given, Iterable) and not isinstance(given, (str, bytes)):
        for each in given:
            _add(each, caller, found)
    else:
        raise TypeError(f"{caller}() takes tensors, nodes and gradient edges, got {given!r}")
