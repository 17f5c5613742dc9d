# SPDX-License-Identifier: BSD-3-Clause
"""What a graph tells about a backward that failed in it: the way there, and what is around. Only looks."""

import re
from collections import deque
from typing import Any, cast

import torch
from torch.autograd.graph import GradientEdge, Node

from .. import _C, _compat
from .facts import Edge, Frame, Neighbour, Origin
from .places import line_of

_ENTRY = re.compile(
    r'^ *File "(?P<file>.*)", line (?P<line>\d+), in (?P<function>.*)\n(?: {4,}(?P<source>.*))?', re.MULTILINE
)

# A larger picture says less.
_PICTURE_DISTANCE = 3
_PICTURE_NODES = 24


# --- A node ---------------------------------------------------------------------------------------


def name_of(node: Node) -> str:
    """The node's name, even if its ctx has an attribute called ``name``."""
    return type(node).name(node)


def metadata_of(node: Node) -> dict[str, Any]:
    """The node's metadata: an attribute, though torch declares a method."""
    return cast("dict[str, Any]", node.metadata)


def next_nodes(node: Node) -> list[Node]:
    """The nodes that the gradients of ``node`` go to."""
    return [following for following, _ in node.next_functions if following is not None]


def frames_of(metadata: dict[str, Any]) -> tuple[Frame, ...]:
    """The forward call that created the node with this metadata, outermost frame first."""
    return frames_of_stack(metadata.get("traceback_", ()))


def frames_of_stack(stack: Any) -> tuple[Frame, ...]:
    """The frames of a stack that anomaly mode has noted, outermost first."""
    if hasattr(stack, "frames"):
        return tuple(Frame(*frame) for frame in stack.frames())
    # torch's own list of strings, or what torch.fx.traceback has preserved.
    return tuple(
        Frame(entry["file"], int(entry["line"]), entry["function"], entry["source"] or "")
        for entry in _ENTRY.finditer("".join(stack))
    )


def origin_of(node: Node) -> Origin:
    """The node's name and the forward call that created it."""
    return Origin(name_of(node), frames_of(metadata_of(node)))


def parents_of(metadata: dict[str, Any]) -> tuple[Origin, ...]:
    """The node whose backward created the node with this metadata, then that one's, and so on."""
    parents = []
    parent = metadata.get("parent_")
    while parent is not None and _compat.has_node(parent):
        parents.append(origin_of(parent))
        parent = parent.metadata.get("parent_")
    return tuple(parents)


def _place_of(node: Node) -> Frame | None:
    return line_of(frames_of(metadata_of(node)))


# --- The way to a node, and what is around it ---------------------------------------------------------


def reachable(roots: tuple[torch.Tensor | GradientEdge, ...]) -> dict[Node, Node | None]:
    """The nodes that a backward from ``roots`` can run, nearest first, each with the node it is reached from.

    A C++ node gets a new wrapper each time unless somebody holds one; the dict does.
    """
    came_from: dict[Node, Node | None] = {}
    for root in roots:
        node = node_of(root)
        if node is not None:
            came_from.setdefault(node, None)
    queue = deque(came_from)
    while queue:
        node = queue.popleft()
        for following in next_nodes(node):
            if following not in came_from:
                came_from[following] = node
                queue.append(following)
    return came_from


def node_of(root: torch.Tensor | GradientEdge) -> Node | None:
    """The node that a backward from ``root`` starts at; None if there is none."""
    if isinstance(root, GradientEdge):
        return root.node
    # get_gradient_edge() would create a node, and the sequence number of the next one would be another.
    try:
        return _C.node_of_root(root)
    except (RuntimeError, TypeError):  # a view that can't have a grad_fn any more; not a tensor
        return None


def path_to(node: Node, came_from: dict[Node, Node | None]) -> list[Node]:
    """From a root to ``node``, by as few edges as possible."""
    path: list[Node] = []
    step: Node | None = node
    while step is not None:
        path.append(step)
        step = came_from[step]
    return path[::-1]


def surroundings(
    failing: Node, born: Node | None, graph: dict[Node, Node | None]
) -> tuple[tuple[Neighbour, ...], tuple[Edge, ...]]:
    """The nodes around ``failing``, nearest first, and their edges; ``born`` is where values were first not finite."""
    nodes = _around(failing, graph, _PICTURE_DISTANCE, _PICTURE_NODES)
    number = {node: index for index, node in enumerate(nodes)}
    neighbours = (Neighbour(name_of(node), _place_of(node), node is failing, node is born) for node in nodes)
    edges = (
        Edge(number[node], number[following], output)
        for node in nodes
        for output, (following, _) in enumerate(node.next_functions)
        if following in number
    )
    return tuple(neighbours), tuple(edges)


def _around(failing: Node, graph: dict[Node, Node | None], distance: int, limit: int) -> list[Node]:
    """The nodes at most ``distance`` edges from ``failing``, whatever the edges' direction, nearest first."""
    neighbours: dict[Node, list[Node]] = {node: next_nodes(node) for node in graph}
    for node in graph:
        for following in next_nodes(node):
            neighbours[following].append(node)
    found = {failing: 0}
    queue = deque([failing])
    while queue:
        node = queue.popleft()
        for neighbour in neighbours[node] if found[node] < distance else ():
            if neighbour not in found and len(found) < limit:
                found[neighbour] = found[node] + 1
                queue.append(neighbour)
    return list(found)
