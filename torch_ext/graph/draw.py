# SPDX-License-Identifier: BSD-3-Clause
"""A graph as a picture, drawn by Graphviz."""

import os
from collections import Counter
from collections.abc import Iterable
from html import escape
from typing import Any, cast

import torch
from torch import nn
from torch.autograd.graph import Node

from .. import _C, _compat
from ..anomaly import picture
from ..anomaly.facts import Frame
from ..anomaly.graph import next_nodes
from . import text
from .kinds import COLOURS, kind_of, short_name
from .places import Modules, line_of, stack_of
from .pruning import Block, choose
from .walk import nodes_of, roots_of

_AROUND = 3  # edges
_TOOLTIP = 5  # frames
_DIM = "#555B63"
# Two of the same widths: Graphviz measures with one, and a browser may have the other.
_FONT = '"DejaVu Sans,Verdana,sans-serif"'
_MIDDLE = ' penwidth=4 color="#0072B2"'


def draw(
    graph: Any,
    path: str | os.PathLike[str],
    *,
    parameters: nn.Module | Iterable[tuple[str, torch.Tensor]] | None = None,
    group: str | None = "auto",
    saved: bool = False,
    depth: int | None = None,
    around: Any = None,
    limit: int = 200,
) -> None:
    """Draws a graph, from its leaves at the top to what backward is called on.

    Each node has its name, the line that made it and the colour of its kind; each edge the shape of the tensor, and
    its dtype if that is not the most common one. What repeats in a larger graph, such as equal layers, is drawn once,
    and a box says how often it comes again.

    Args:
        graph: tensors, nodes or gradient edges, one or in lists, tuples and dicts.
        path: the file to write; its suffix names the format, one that Graphviz knows (.svg, .png, .pdf ...). With .dot
            or .gv the graph is written in Graphviz's language, and it need not be installed.
        parameters: gives leaves their names: a module, or what its ``named_parameters()`` returns.
        group: draws a frame around what belongs together: "line", by the line that made the nodes; "module", by the
            module whose method ran; None, no frames. "auto" is "module" if ``parameters`` is a module, else "line".
        saved: whether nodes tell what they keep for backward, with sizes.
        depth: how many edges away from the end, or from ``around``, nodes are drawn; the others are counted. None for
            all, and 3 with ``around``.
        around: a tensor or a node of the graph that is in the middle of what is drawn.
        limit: at most so many boxes, the nearest ones; the others are counted.

    Raises:
        TypeError: ``graph`` has something else in it.
        ValueError: ``around`` is not in the graph, there is no such ``group``, or Graphviz can't write that format.
        RuntimeError: Graphviz is not installed.
        OSError: the file can't be written.
    """
    picture.draw(to_dot(graph, parameters, group, saved, depth, around, limit), path)


def to_dot(
    graph: Any,
    parameters: nn.Module | Iterable[tuple[str, torch.Tensor]] | None = None,
    group: str | None = "auto",
    saved: bool = False,
    depth: int | None = None,
    around: Any = None,
    limit: int = 200,
) -> str:
    """The picture in Graphviz's language; the arguments are those of :func:`draw`."""
    if group not in ("auto", "line", "module", None):
        raise ValueError(f'group is "line", "module", "auto" or None, got {group!r}')
    roots = roots_of(graph, "draw")
    order = nodes_of(roots)
    middle = None
    if around is not None:
        middle = next(iter(roots_of(around, "draw")), None)
        if middle not in set(order):
            raise ValueError("around is no node of the graph, nor a tensor that one of its nodes has made")
        depth = _AROUND if depth is None else depth
    drawing = _Drawing(order, roots, middle, parameters, group, saved)
    return drawing.text(choose(order, roots, middle, depth, limit, drawing.signature))


class _Drawing:
    """What is known of the nodes, and how they are drawn."""

    def __init__(
        self,
        order: list[Node],
        roots: list[Node],
        middle: Node | None,
        parameters: nn.Module | Iterable[tuple[str, torch.Tensor]] | None,
        group: str | None,
        saved: bool,
    ) -> None:
        self.order, self.roots, self.middle, self.saved = order, set(roots), middle, saved
        module = parameters if isinstance(parameters, nn.Module) else None
        if group == "auto":
            group = "line" if module is None else "module"
        self.group = group
        self.modules = Modules(module) if group == "module" else None
        self.named = list(parameters.named_parameters() if isinstance(parameters, nn.Module) else (parameters or ()))
        self.names = {id(tensor): name for name, tensor in self.named}
        self.stacks: dict[Node, tuple[Frame, ...]] = {}
        dtypes = Counter(dtype for node in order for _, dtype in self.forms(node))
        self.dtype = next((dtype for dtype, _ in dtypes.most_common(1)), "")

    # --- Facts ---

    def stack(self, node: Node) -> tuple[Frame, ...]:
        if node not in self.stacks:
            self.stacks[node] = stack_of(node)
        return self.stacks[node]

    def line(self, node: Node) -> Frame | None:
        return line_of(self.stack(node))

    def forms(self, node: Node) -> list[tuple[tuple[int | str, ...], str]]:
        variable = _compat.variable_of(node)
        return _compat.forms_of_results(node) if variable is None else [_compat.form_of(variable)]

    def signature(self, node: Node) -> Any:
        return short_name(node), self.line(node), tuple(self.forms(node)), node in self.roots

    def shape(self, sizes: tuple[int | str, ...], dtype: str) -> str:
        return text.shape(sizes, "" if dtype == self.dtype else dtype).rstrip()

    def groups_of(self, nodes: list[Node]) -> dict[Node, str]:
        """What stands on the frame around each of ``nodes``; "" for none."""
        if self.group is None:
            return dict.fromkeys(nodes, "")
        if self.modules is None:
            lines = {node: self.line(node) for node in nodes}
            return {node: "" if line is None else text.line(line) for node, line in lines.items()}
        labels = {node: self.modules.of(node, self.stack(node)) for node in nodes}
        found = dict(labels)
        for node in nodes:
            for other in next_nodes(node):
                # A view before or behind the product of a layer has no parameter that would tell whose it is.
                for one, named in ((node, other), (other, node)):
                    label = labels.get(named, "")
                    if labels.get(one) and label.endswith(f"({labels[one]})"):
                        found[one] = label
        return found

    def frames(self, blocks: list[Block], block_of: dict[Node, Block]) -> list[tuple[str, list[Block]]]:
        """Blocks that stand in one frame, with its label: those of one group that are connected."""
        nodes = [block.nodes[0] for block in blocks if block.kind == "node"]
        labels = self.groups_of(nodes)
        frame_of: dict[Block, list[Block]] = {block: [block] for block in blocks}
        for node in nodes:
            for other in next_nodes(node):
                if labels[node] and labels.get(other) == labels[node]:
                    first, second = frame_of[block_of[node]], frame_of[block_of[other]]
                    if first is not second:
                        first += second
                        frame_of.update(dict.fromkeys(second, first))
        frames = {id(frame): frame for frame in frame_of.values()}.values()
        return [(labels.get(frame[0].nodes[0], ""), frame) for frame in frames]

    # --- Text ---

    def text(self, blocks: list[Block]) -> str:
        """The whole picture."""
        block_of = {node: block for block in blocks for node in block.nodes}
        names = {block: f"n{number}" for number, block in enumerate(blocks)}
        self._add_leaves(block_of, names)
        lines = [
            "digraph {",
            f"  graph [fontname={_FONT} fontsize=11 bgcolor=white nodesep=0.25 ranksep=0.35]",
            f'  node [shape=box style="rounded,filled" fillcolor=white color="{_DIM}" fontname={_FONT} fontsize=11]',
            f'  edge [color="{_DIM}" fontname={_FONT} fontsize=9 fontcolor="{_DIM}" arrowsize=0.7]',
            *self._legend(names),
        ]
        for number, (label, members) in enumerate(self.frames(list(names), block_of)):
            if label:
                lines.append(f"  subgraph cluster_{number} {{ label={picture.quote(text.cut(label, 60))} labelloc=t")
                lines.append('  labeljust=l style=rounded color="#B9C0C8" fontsize=10 fontcolor="#3A4048"')
            lines += [f"  {names[block]} {self._box(block)}" for block in members]
            lines += ["  }"] if label else []
        return "\n".join([*lines, *self._edges(block_of, names), "}", ""])

    def _add_leaves(self, block_of: dict[Node, Block], names: dict[Block, str]) -> None:
        """Leaves of drawn nodes, and those that several blocks share, are drawn; the others belong to their block."""
        users: dict[Node, dict[Block, None]] = {}
        for node, block in list(block_of.items()):
            for following, _ in node.next_functions:
                if following is not None and _compat.variable_of(following) is not None:
                    users.setdefault(following, {})[block] = None
        for root in self.roots:
            if _compat.variable_of(root) is not None:
                users.setdefault(root, {})
        for number, (leaf, blocks) in enumerate(users.items()):
            hidden = all(block.kind in ("before", "after") for block in blocks)
            if blocks and (hidden or (len(blocks) == 1 and next(iter(blocks)).kind == "repeat")):
                block_of[leaf] = next(iter(blocks))
            else:
                block_of[leaf] = Block("leaf", [leaf])
                names[block_of[leaf]] = f"leaf{number}"

    def _box(self, block: Block) -> str:
        node = block.nodes[0]
        count = len(block.nodes)
        if block.kind in ("before", "after"):
            words = f"... {text.plural(count, 'more node')}"
            return f'[label={picture.quote(words)} style="rounded,dashed"]'
        if block.kind == "leaf":
            return self._leaf(node)
        if block.kind == "repeat" and block.period > 1:
            times = count // block.period
            again = "once more" if times == 1 else f"{times} more times"
            words = f"the same {block.period} nodes {again}\n({count} nodes)"
            return f'[label={picture.quote(words)} style="rounded,filled" fillcolor="#F5F6F8" peripheries=2]'
        kind = kind_of(node)
        title = short_name(node) if block.kind == "node" else f"{short_name(node)}  x {count}"
        details = ["custom Function"] if kind == "custom Function" else []
        line = self.line(node)
        if line is not None and self.group != "line":
            details.append(text.place(line))
        if self.saved and block.kind == "node":
            details += self._saved(node)
        if (_C.notes_of(node) or (0, 0))[1] > 0:
            details.append("freed by a backward")
        style = f'fillcolor="{COLOURS[kind]}"'
        style += ' color="#B3391E" peripheries=2' * (kind == "custom Function")
        style += " penwidth=2.5" * (node in self.roots) + _MIDDLE * (node is self.middle)
        style += f" tooltip={picture.quote(_tooltip(self.stack(node)))}"
        return f"[label=<{_label(title, details)}> {style}]"

    def _leaf(self, node: Node) -> str:
        variable = cast("torch.Tensor", _compat.variable_of(node))
        kind = "parameter" if isinstance(variable, nn.Parameter) else "leaf"
        name = self.names.get(id(variable), kind)
        form = self.shape(*_compat.form_of(variable))
        style = f'fillcolor="{COLOURS[kind]}" style=filled tooltip={picture.quote(name)}'
        return f"[label=<{_label(name, [form])}> {style}{_MIDDLE * (node is self.middle)}]"

    def _saved(self, node: Node) -> list[str]:
        details = []
        for name, value, hook in _compat.kept_by(node):
            if _compat.is_tensor(value):
                storage = _compat.storage_of(value)
                size = "" if storage is None else f", {text.size(storage[1])}"
                details.append(f"keeps {name}: {self.shape(*_compat.form_of(value))}{size}")
            elif hook is not None:
                details.append(f"keeps {name}, packed by a hook")
        return details

    def _edges(self, block_of: dict[Node, Block], names: dict[Block, str]) -> list[str]:
        edges: Counter[tuple[str, str, str]] = Counter()
        for node in self.order:
            for following, output in node.next_functions:
                start, end = (None if each is None else block_of.get(each) for each in (following, node))
                if following is None or start is None or end is None or start is end:
                    continue
                if start not in names or end not in names:
                    continue
                forms = self.forms(following)
                # A leaf's box has its shape.
                known = start.kind != "leaf" and output < len(forms)
                edges[names[start], names[end], self.shape(*forms[output]) if known else ""] += 1
        return [
            f"  {start} -> {end}" + (f" [label={picture.quote(_times(label, count))}]" if label or count > 1 else "")
            for (start, end, label), count in edges.items()
        ]

    def _legend(self, names: dict[Block, str]) -> list[str]:
        shown: dict[str, None] = {}
        for block in names:
            if block.kind == "leaf":
                shown["parameter" if isinstance(_compat.variable_of(block.nodes[0]), nn.Parameter) else "leaf"] = None
            elif block.kind == "node" or (block.period == 1 and block.kind == "repeat"):
                shown[kind_of(block.nodes[0])] = None
        cells = "".join(f'<TD BGCOLOR="{COLOURS[kind]}">{kind}</TD>' for kind in COLOURS if kind in shown)
        dtype = f"<TD>{self.dtype} if nothing else is said</TD>" if self.dtype else ""
        if not cells + dtype:
            return ['  label="There is no graph."']
        table = f'<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="4" CELLPADDING="4"><TR>{cells}{dtype}</TR></TABLE>'
        return [f"  label=<{table}> labelloc=b"]


def _times(label: str, count: int) -> str:
    return label if count == 1 else f"{label} ({count} times)".strip()


def _label(title: str, details: list[str]) -> str:
    lines = [f"<B>{escape(title)}</B>"]
    lines += [f'<FONT POINT-SIZE="9" COLOR="#3A4048">{escape(each)}</FONT>' for each in details]
    return "<BR/>".join(lines)


def _tooltip(stack: tuple[Frame, ...]) -> str:
    """The innermost frames of a stack, as what is shown while the pointer is on a node."""
    return "\n".join(f"{text.line(frame)}" for frame in stack[-_TOOLTIP:]) or text.UNKNOWN_LINE
