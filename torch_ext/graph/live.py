# SPDX-License-Identifier: BSD-3-Clause
"""Graphs that are alive: how many, how large and how old, by the line that made them, and who holds them."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import Node

from .. import _C, _compat
from ..anomaly.facts import Frame
from ..anomaly.graph import name_of, next_nodes
from . import text
from .holders import holder_of
from .memory import bytes_kept
from .places import line_of, notes_of, stack_of
from .walk import nodes_of

# So many rows are printed, and of so many it is looked up who holds them, by so many of their graphs.
_ROWS = 20
_HELD_ROWS = 5
_HELD_GRAPHS = 200


@dataclass(frozen=True)
class LiveRow:
    """The graphs that end at one line.

    Args:
        node: the name of the node that they end at.
        line: the line that made it; None if that was not noted.
        graphs: how many there are.
        nodes: how many nodes they have together; accumulators of leaves don't count.
        bytes: what they keep for backward, as :func:`saved_memory` counts it.
        freed: of how many nodes a backward has freed what they kept.
        youngest, oldest: ages of their nodes, in backwards that have begun since; None if no node was noted.
        generations: how many different ages there are: graphs of so many steps are alive.
        held_by: who holds them, as far as Python's garbage collector can tell; "" if it was not looked up.
        more_graphs, more_nodes, more_bytes: by how much they have grown, with ``since``.
    """

    node: str
    line: Frame | None
    graphs: int
    nodes: int
    bytes: int
    freed: int
    youngest: int | None
    oldest: int | None
    generations: int
    held_by: str = ""
    more_graphs: int = 0
    more_nodes: int = 0
    more_bytes: int = 0


@dataclass(frozen=True)
class Live:
    """Graphs that are alive; ``str()`` of it is a table. It holds numbers and names only.

    Args:
        rows: those of the most steps first, which is where somebody keeps what should have gone. With ``since`` those
            that have grown.
        graphs, nodes, bytes: the sums; what several graphs share counts once.
        unnoted: how many nodes were made while nothing was noted: their line and age are not known.
        since: whether the rows say what has grown.
        all_rows: every row, also those that have not grown: what a later look compares with.
    """

    rows: tuple[LiveRow, ...]
    graphs: int
    nodes: int
    bytes: int
    unnoted: int
    since: bool = False
    all_rows: tuple[LiveRow, ...] = dataclasses.field(default=(), repr=False)

    def to_json(self, indent: int | None = 2) -> str:
        """All of it as the text of a JSON object, indented by ``indent`` spaces; None for one line."""
        data = dataclasses.asdict(self)
        del data["all_rows"]
        return json.dumps(data, indent=indent)

    def __str__(self) -> str:
        verb = "is" if self.graphs == 1 else "are"
        if not self.graphs:
            return "No graph is alive."
        head = f"{text.plural(self.graphs, 'graph')} {verb} alive"
        lines = [f"{head}: {text.plural(self.nodes, 'node')}, {text.size(self.bytes)} kept for backward."]
        if self.unnoted:
            lines.append(f"Of {text.plural(self.unnoted, 'node')} line and age are not known: they were not noted.")
        if self.since and not self.rows:
            return "\n".join([*lines, "None has grown."])
        if self.rows:
            lines += ["Grown since then:" if self.since else "", *self._table()]
        return "\n".join(lines)

    def _table(self) -> list[str]:
        head = ("graphs", "nodes", "bytes", "freed", "age", "made by")
        table = text.table(head, map(self._cells, self.rows[:_ROWS]))
        lines = table[:1]
        for row, line in zip(self.rows, table[1:], strict=False):
            lines.append(line)
            if row.held_by:
                lines.append(text.cut(f"    held by {row.held_by}", text.WIDTH))
        return [*lines, f"  ({len(self.rows) - _ROWS} more lines)"] if self.rows[_ROWS:] else lines

    def _cells(self, row: LiveRow) -> tuple[str, ...]:
        counts = [f"{row.graphs}", f"{row.nodes}", text.size(row.bytes)]
        if self.since:
            grown = (row.more_graphs, row.more_nodes, row.more_bytes)
            sizes = (f"{grown[0]:+}", f"{grown[1]:+}", ("-" if grown[2] < 0 else "+") + text.size(abs(grown[2])))
            cells = zip(counts, sizes, grown, strict=True)
            counts = [f"{count} ({more})" if number else count for count, more, number in cells]
        freed = "no" if not row.freed else ("yes" if row.freed == row.nodes else f"{row.freed} nodes")
        age = str(row.oldest)
        if row.oldest is None:  # nothing was noted
            freed = age = "-"
        if row.oldest != row.youngest:
            age = f"{row.youngest} to {row.oldest}"
        where = text.line(row.line) if row.line is not None else f"{row.node} {text.UNKNOWN_LINE}"
        return (*counts, freed, age, where)


def live(since: Live | None = None) -> Live:
    """Graphs that are alive now, by the line that made them: those of the most training steps first.

    A list of losses that somebody keeps, and a sum that each step adds its loss to, grow by a graph a step: they are
    the first rows, with who holds them.

    Found are graphs that end at a tensor or a node that Python code holds, or at a leaf's grad; one that only C++ code
    holds is not. Garbage that was not collected yet counts, and what ``gc.freeze()`` has put aside doesn't. Lines and
    ages are known of nodes that were made while torch_ext noted them: in its anomaly mode, or under
    :func:`torch_ext.graph.noting`. Looking keeps nothing alive.

    Args:
        since: an earlier result. The rows are then those that have grown since.

    Returns:
        The rows and sums: counts of graphs and nodes, and bytes. Ages are counted in backwards that have begun.
    """
    found = _find()
    order = nodes_of(found)
    inner = {following for node in order for following in next_nodes(node)}
    tops = [node for node in found if node not in inner and _compat.variable_of(node) is None]
    groups: dict[tuple[str, Frame | None], list[Node]] = {}
    for top in tops:
        line = None if notes_of(top) is None else line_of(stack_of(top))
        groups.setdefault((name_of(top), line), []).append(top)
    rows = {key: _row(key, members) for key, members in groups.items()}
    ordered = sorted(
        rows, key=lambda key: (-rows[key].generations, -rows[key].graphs, -rows[key].bytes, -rows[key].nodes)
    )
    shown = ordered if since is None else [key for key in ordered if _has_grown(_compare(rows[key], since))]
    for key in shown[:_HELD_ROWS]:
        ends = [each for top in groups[key][:_HELD_GRAPHS] for each in found[top]]
        own = [ends, found, order, inner, tops, *found.values(), *groups.values()]
        # Nothing but a leaf leads to its grad.
        held_by = holder_of(ends, own) if ends else "the grad of a leaf"
        rows[key] = dataclasses.replace(rows[key], held_by=held_by)
    every = _without_leaves(order)
    return Live(
        tuple(rows[key] if since is None else _compare(rows[key], since) for key in shown),
        len(tops),
        len(every),
        bytes_kept(order),
        sum(notes_of(node) is None for node in every),
        since is not None,
        tuple(dataclasses.replace(row, held_by="") for row in rows.values()),
    )


def _find() -> dict[Node, list[Any]]:
    """The nodes at which Python code may hold graphs, each with the tensors and nodes by which it does."""
    found: dict[Node, list[Any]] = {}
    kinds: dict[type, int] = {}
    for each in _objects():
        cls = type(each)
        kind = kinds.get(cls)
        if kind is None:
            kind = kinds[cls] = 1 if torch.Tensor in cls.__mro__ else (2 if _compat.is_node_class(cls) else 0)
        if kind == 1:
            node, of_grad = _compat.start_of(each)
            if node is not None:
                found.setdefault(node, []).append(each)
            if of_grad is not None:
                found.setdefault(of_grad, [])
        elif kind == 2 and _compat.has_node(each):
            found.setdefault(each, []).append(each)
    return found


def _objects() -> list[Any]:
    """The tensors and the nodes that Python code holds."""
    return _C.graph_objects()


def _without_leaves(nodes: Iterable[Node]) -> list[Node]:
    return [node for node in nodes if _compat.variable_of(node) is None]


def _row(key: tuple[str, Frame | None], tops: list[Node]) -> LiveRow:
    order = nodes_of(tops)
    nodes = _without_leaves(order)
    notes = [note for note in map(notes_of, nodes) if note is not None]
    now = _C.backwards()
    ages = {now - made_in for made_in, _ in notes}
    return LiveRow(
        *key,
        graphs=len(tops),
        nodes=len(nodes),
        bytes=bytes_kept(order),
        freed=sum(freed_by > 0 for _, freed_by in notes),
        youngest=min(ages, default=None),
        oldest=max(ages, default=None),
        generations=len(ages),
    )


def _compare(row: LiveRow, since: Live) -> LiveRow:
    before = next((old for old in since.all_rows if (old.node, old.line) == (row.node, row.line)), None)
    if before is None:
        return dataclasses.replace(row, more_graphs=row.graphs, more_nodes=row.nodes, more_bytes=row.bytes)
    return dataclasses.replace(
        row,
        more_graphs=row.graphs - before.graphs,
        more_nodes=row.nodes - before.nodes,
        more_bytes=row.bytes - before.bytes,
    )


def _has_grown(row: LiveRow) -> bool:
    return row.more_graphs > 0 or row.more_nodes > 0 or row.more_bytes > 0
