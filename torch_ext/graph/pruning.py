# SPDX-License-Identifier: BSD-3-Clause
"""Which nodes of a graph are drawn, and which stand together as one: what repeats, and what there is no room for."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch.autograd.graph import Node

from .. import _compat
from ..anomaly.graph import next_nodes

# Smaller graphs are drawn as they are.
_FOLD_FROM = 40
_LONGEST_PERIOD = 120
# Beyond that many the search for repetitions would take long.
_MOST_SEARCHED = 5000


@dataclass(eq=False)
class Block:
    """What is drawn as one.

    Args:
        kind: "node"; "repeat", for the same ``period`` nodes again and again; "before", for what the drawn nodes were
            computed from and isn't drawn; "after", for the rest.
    """

    kind: str
    nodes: list[Node]
    period: int = 1


def choose(
    order: Sequence[Node],
    roots: Sequence[Node],
    around: Node | None,
    depth: int | None,
    limit: int,
    signature: Callable[[Node], Any],
) -> list[Block]:
    """Blocks with all nodes of ``order`` but for accumulators of leaves, in order.

    Args:
        order: the nodes of a graph, those of forward's first operators first.
        roots: where it ends.
        around: the node in the middle of what is drawn, if there is one.
        depth: how many edges away from there, or from the roots, nodes are drawn; None for all.
        limit: at most so many blocks, nearest first.
        signature: equal for nodes that are alike; their edges are compared besides.
    """
    inner = [node for node in order if _compat.variable_of(node) is None]
    distance = _from_the_end(order, roots) if around is None else _both_ways(around, order)
    near = [node for node in inner if node in distance and (depth is None or distance[node] <= depth)]
    if len(near) > max(_MOST_SEARCHED, limit):
        nearest = set(sorted(near, key=distance.__getitem__)[: max(_MOST_SEARCHED, limit)])
        near = [node for node in near if node in nearest]
    blocks = _fold(near, signature) if len(near) > _FOLD_FROM else [Block("node", [node]) for node in near]
    if len(blocks) > limit:
        by_distance = sorted(blocks, key=lambda block: min(distance[node] for node in block.nodes))
        kept = set(by_distance[:limit])
        blocks = [block for block in blocks if block in kept]
    return [*_rest(order, blocks), *blocks]


def _from_the_end(order: Sequence[Node], roots: Iterable[Node]) -> dict[Node, int]:
    """How many edges each node is away from ``roots`` by the longest way: none is nearer than what it leads to."""
    distance = dict.fromkeys(roots, 0)
    for node in reversed(order):
        for following in next_nodes(node):
            distance[following] = max(distance.get(following, 0), distance[node] + 1)
    return distance


def _both_ways(middle: Node, order: Sequence[Node]) -> dict[Node, int]:
    """How many edges nodes are away from ``middle``, whatever their direction."""
    neighbours: dict[Node, list[Node]] = {node: [] for node in order}
    for node in order:
        for following in next_nodes(node):
            # By way of a leaf that many share everything would be near.
            if _compat.variable_of(following) is None or following is middle:
                neighbours[node].append(following)
                neighbours[following].append(node)
    distance = {middle: 0}
    queue = deque(distance)
    while queue:
        node = queue.popleft()
        for neighbour in neighbours[node]:
            if neighbour not in distance:
                distance[neighbour] = distance[node] + 1
                queue.append(neighbour)
    return distance


def _rest(order: Sequence[Node], blocks: Sequence[Block]) -> list[Block]:
    """Blocks for the nodes that are in none of ``blocks``: those that lead to them, and the others."""
    shown = {node for block in blocks for node in block.nodes}
    behind = set(shown)
    for node in reversed(order):
        if node in behind:
            behind.update(next_nodes(node))
    rest = [node for node in order if node not in shown and _compat.variable_of(node) is None]
    before = [node for node in rest if node in behind]
    after = [node for node in rest if node not in behind]
    return [Block(kind, nodes) for kind, nodes in (("before", before), ("after", after)) if nodes]


# --- What repeats -----------------------------------------------------------------------------------


def _fold(order: Sequence[Node], signature: Callable[[Node], Any]) -> list[Block]:
    """Blocks of ``order``, in which what repeats at least three times stands once, and once more for the others."""
    index = {node: number for number, node in enumerate(order)}
    numbers: dict[Any, int] = {}
    signs = []
    for number, node in enumerate(order):
        inputs: list[Any] = []
        for following, output in node.next_functions:
            if following in index:
                inputs.append((number - index[following], output))
            else:
                inputs.append(None if following is None else _compat.variable_of(following) is not None)
        signs.append(numbers.setdefault((signature(node), tuple(inputs)), len(numbers)))
    crossing = _crossing(order, index)
    blocks: list[Block] = []
    parts = [(0, len(order))]
    while parts:
        start, end = parts.pop()
        found = _repetition(signs, crossing, start, end)
        if found is None:
            blocks += [Block("node", [node]) for node in order[start:end]]
            continue
        first, period, times = found
        # Of a single node that repeats the block itself tells all.
        again = first if period == 1 else first + period
        last = first + period * times
        if (start, end) == (first, last):
            if again > first:
                blocks += [Block("node", [node]) for node in order[first:again]]
            blocks.append(Block("repeat", list(order[again:last]), period))
        else:
            # Taken from the end: in order.
            parts += [part for part in ((last, end), (first, last), (start, first)) if part[0] < part[1]]
    return blocks


def _crossing(order: Sequence[Node], index: dict[Node, int]) -> list[int]:
    """For each place between two nodes of ``order``, how many nodes before it are used behind it."""
    last_use = list(range(len(order)))
    for number, node in enumerate(order):
        for following in next_nodes(node):
            if following in index:
                last_use[index[following]] = number
    changes = [0] * (len(order) + 2)
    for number, last in enumerate(last_use):
        changes[number + 1] += 1
        changes[last + 1] -= 1
    return list(accumulate(changes))


def _repetition(signs: Sequence[int], crossing: Sequence[int], start: int, end: int) -> tuple[int, int, int] | None:
    """(first, period, times) of the repetition that saves the most; None if there is none."""
    best, most = None, 2
    for period in range(1, min((end - start) // 3, _LONGEST_PERIOD) + 1):
        run = 0
        for at in range(start, end - period + 1):
            if at < end - period and signs[at] == signs[at + period]:
                run += 1
                continue
            # Cut where the fewest values pass from one time to the next: between two layers, and not inside them.
            first = min(range(at - run, at - run + min(period, run) + 1), key=crossing.__getitem__)
            times = (at + period - first) // period
            saved = period * (times - 1) - (period > 1)
            if times >= 3 and saved > most:
                best, most = (first, period, times), saved
            run = 0
    return best
