# SPDX-License-Identifier: BSD-3-Clause
"""A graph as a table: which kinds of nodes it has, how many, what they keep for backward, and their lines."""

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch.autograd.graph import Node

from .. import _compat
from ..anomaly.facts import Frame
from ..anomaly.graph import name_of, next_nodes
from . import text
from .memory import saved_memory
from .places import line_of, stack_of
from .walk import nodes_of, roots_of

# So many kinds are printed, and so many lines of each.
_ROWS = 30
_LINES = 4


@dataclass(frozen=True)
class SummaryRow:
    """The nodes of one name.

    Args:
        kind: the name.
        custom: whether they are custom Functions'.
        nodes: how many there are.
        bytes: what they keep for backward, as :func:`saved_memory` counts it.
        lines: the lines that made them, with how many nodes each; those that are not known are left out.
    """

    kind: str
    custom: bool
    nodes: int
    bytes: int
    lines: tuple[tuple[Frame, int], ...]


@dataclass(frozen=True)
class Summary:
    """A graph by kinds of nodes; ``str()`` of it is a table. It holds numbers and names only.

    Args:
        rows: the most frequent kind first; accumulators of leaves are no rows.
        nodes: how many nodes there are without those.
        leaves: how many leaves the graph reaches.
        depth: how many nodes are on the longest way through it.
        bytes: what it keeps for backward.
    """

    rows: tuple[SummaryRow, ...]
    nodes: int
    leaves: int
    depth: int
    bytes: int

    def to_json(self, indent: int | None = 2) -> str:
        """All of it as the text of a JSON object, indented by ``indent`` spaces; None for one line."""
        return json.dumps(dataclasses.asdict(self), indent=indent)

    def __str__(self) -> str:
        if not self.nodes:
            return "There is no graph."
        head = f"{text.plural(self.nodes, 'node')}, {self.depth} deep, {text.plural(self.leaves, 'leaf')}"
        lines = [f"{head.replace('leafs', 'leaves')}, {text.size(self.bytes)} kept for backward.", ""]
        names = [row.kind + " (custom)" * row.custom for row in self.rows]
        width = max(map(len, ["kind", *names]))
        cells = [
            (str(row.nodes), text.size(row.bytes), f"{name:<{width}}  {_places(row)}")
            for row, name in zip(self.rows[:_ROWS], names, strict=False)
        ]
        lines += text.table(("nodes", "bytes", f"{'kind':<{width}}  made by"), cells)
        return "\n".join([*lines, f"  ({len(self.rows) - _ROWS} more kinds)"] if self.rows[_ROWS:] else lines)


def _places(row: SummaryRow) -> str:
    if not row.lines:
        return text.UNKNOWN_LINE
    shown = [text.place(line) + (f" ({count})" if count > 1 else "") for line, count in row.lines[:_LINES]]
    return ", ".join([*shown, f"{len(row.lines) - _LINES} more"] if row.lines[_LINES:] else shown)


def summary(graph: Any) -> Summary:
    """A graph as a table: kinds of nodes, how many there are, what they keep for backward, and the lines.

    Args:
        graph: tensors, nodes or gradient edges, one or in lists, tuples and dicts.

    Raises:
        TypeError: ``graph`` has something else in it.
    """
    roots = roots_of(graph, "summary")
    order = nodes_of(roots)
    kept = saved_memory(roots)
    sizes = {row.label: row.bytes for row in kept.by_kind}
    inner = [node for node in order if _compat.variable_of(node) is None]
    kinds: dict[str, list[Node]] = {}
    for node in inner:
        kinds.setdefault(name_of(node), []).append(node)
    rows = [_row(name, nodes, sizes.get(name, 0)) for name, nodes in kinds.items()]
    ordered = sorted(rows, key=lambda row: (-row.nodes, -row.bytes))
    return Summary(tuple(ordered), len(inner), len(order) - len(inner), _depth(inner), kept.total)


def _row(name: str, nodes: list[Node], size: int) -> SummaryRow:
    lines = Counter(line for line in (line_of(stack_of(node)) for node in nodes) if line is not None)
    return SummaryRow(name, not _compat.is_of_torch(nodes[0]), len(nodes), size, tuple(lines.most_common()))


def _depth(inner: list[Node]) -> int:
    """How many nodes are on the longest way through ``inner``, which is in forward's order."""
    depths: dict[Node, int] = {}
    for node in inner:
        depths[node] = 1 + max((depths.get(each, 0) for each in next_nodes(node)), default=0)
    return max(depths.values(), default=0)
