# SPDX-License-Identifier: BSD-3-Clause
"""What a graph keeps for backward, in bytes of memory: by line of code, by kind of node and by module."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import Node

from .. import _C, _compat
from ..anomaly.graph import name_of, node_of
from . import text, treemap
from .facts import Copy, Packed, Row, Saver, Storage
from .places import Modules, line_of, stack_of
from .walk import nodes_of, roots_of

#: Roles of a storage. The first two are what the graph keeps; the others live anyway, and are counted apart.
RESULT, OUTSIDE, PARAMETER, BUFFER, LEAF = "result", "outside", "parameter", "buffer", "leaf"
_KEPT = (RESULT, OUTSIDE)

# Nodes whose result shares the memory of their only input.
_VIEWS = frozenset(
    f"{name}Backward{number}"
    for name in "T Transpose View Unsqueeze Squeeze Expand Permute Slice Select Alias AsStrided UnsafeView".split()
    for number in range(3)
)

# So many rows of a table are printed; the data has all.
_ROWS = 10


@dataclass(frozen=True)
class SavedMemory:
    """What a graph keeps for backward; ``str()`` of it is a table. It holds numbers and names only.

    Args:
        nodes: how many nodes the graph has.
        freed: how many of them a backward has freed.
        noted: of how many the line is known.
        storages: what is kept, largest first, each storage once.
        copies: what is kept in two dtypes.
        packed: what hooks have packed into something unknown.
    """

    nodes: int
    freed: int
    noted: int
    storages: tuple[Storage, ...]
    copies: tuple[Copy, ...]
    packed: tuple[Packed, ...]

    @property
    def total(self) -> int:
        """Bytes that the graph keeps, without parameters, buffers and other leaves, which are counted apart."""
        return sum(each.bytes for each in self.kept)

    @property
    def kept(self) -> tuple[Storage, ...]:
        """The storages that ``total`` counts."""
        return tuple(each for each in self.storages if each.role in _KEPT)

    @property
    def shared(self) -> tuple[Storage, ...]:
        """The storages of ``kept`` that several nodes have saved."""
        return tuple(each for each in self.kept if len({saver.node for saver in each.savers}) > 1 or _lines(each) > 1)

    @property
    def by_line(self) -> tuple[Row, ...]:
        """The bytes of ``total`` by the line that made the node that keeps them, largest first."""
        return self._rows(lambda saver: text.line(saver.line))

    @property
    def by_kind(self) -> tuple[Row, ...]:
        """The bytes of ``total`` by the name of the node, largest first."""
        return self._rows(lambda saver: saver.node)

    @property
    def by_module(self) -> tuple[Row, ...]:
        """The bytes of ``total`` by module, largest first."""
        return self._rows(lambda saver: saver.module or "(no module)")

    def apart(self, role: str) -> int:
        """Bytes of the storages whose role is ``role``, such as "parameter"."""
        return sum(each.bytes for each in self.storages if each.role == role)

    def to_json(self, indent: int | None = 2) -> str:
        """All of it with the sums as the text of a JSON object, indented by ``indent`` spaces; None for one line."""
        sums: dict[str, Any] = {"total": self.total}
        for name in ("by_line", "by_kind", "by_module"):
            sums[name] = [dataclasses.asdict(row) for row in getattr(self, name)]
        return json.dumps({**sums, **dataclasses.asdict(self)}, indent=indent)

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Writes a page with a treemap and the tables to ``path``. It needs nothing besides: no script, no network.

        Raises:
            OSError: the file can't be written.
        """
        treemap.write([*self._head(), *self._packed_lines()], self.kept, path)

    def __str__(self) -> str:
        lines = self._head()
        if self.total:
            for title, rows in (("line", self.by_line), ("node", self.by_kind), ("module", self.by_module)):
                lines += ["", *_table(rows, self.total, title)]
        return "\n".join(
            [
                *lines,
                *_section(_SHARED, map(_shared_line, self.shared)),
                *_section(_COPIES, map(_copy_line, self.copies)),
                *self._packed_lines(),
            ]
        )

    def _head(self) -> list[str]:
        if not self.nodes:
            return ["There is no graph: nothing is kept for backward."]
        counts = f"{text.plural(self.nodes, 'node')}, {self.noted} with a noted line"
        head = [f"Kept for backward: {text.size(self.total)} in {text.plural(len(self.kept), 'storage')} ({counts})."]
        if self.freed:
            head.append(f"A backward has freed what {text.plural(self.freed, 'node')} kept.")
        outside = self.apart(OUTSIDE)
        if outside:
            head.append(f"Of it {text.size(outside)} are no results of the graph: data, masks, indices.")
        parts = ((PARAMETER, "parameters"), (BUFFER, "buffers"), (LEAF, "other leaves"))
        apart = [f"{word} {text.size(self.apart(role))}" for role, word in parts if self.apart(role)]
        return [*head, f"Counted apart: {', '.join(apart)}."] if apart else head

    def _packed_lines(self) -> list[str]:
        if not self.packed:
            return []
        rows = [f"{each.count} by {each.hook}" for each in self.packed]
        return ["", text.cut(f"Packed by hooks, of unknown size: {'; '.join(rows)}", text.WIDTH)]

    def _rows(self, label_of: Callable[[Saver], str]) -> tuple[Row, ...]:
        groups: dict[str, list[int]] = {}
        for each in self.kept:
            groups.setdefault(label_of(each.savers[0]), []).append(each.bytes)
        rows = [Row(label, sum(sizes), len(sizes)) for label, sizes in groups.items()]
        return tuple(sorted(rows, key=lambda row: -row.bytes))


_SHARED = "Saved by several nodes, counted once:"
_COPIES = "Kept in two dtypes:"


def _lines(storage: Storage) -> int:
    return len({saver.line for saver in storage.savers})


def _table(rows: tuple[Row, ...], total: int, title: str) -> list[str]:
    cells = [(text.size(row.bytes), f"{row.bytes / total:.0%}", str(row.storages), row.label) for row in rows[:_ROWS]]
    if rows[_ROWS:]:
        rest = sum(row.bytes for row in rows[_ROWS:])
        count = str(sum(row.storages for row in rows[_ROWS:]))
        cells.append((text.size(rest), f"{rest / total:.0%}", count, f"({len(rows) - _ROWS} more)"))
    return text.table(("bytes", "share", "storages", title), cells)


def _section(title: str, lines: Iterator[str]) -> list[str]:
    lines_of_all = list(lines)
    if not lines_of_all:
        return []
    more = [f"  ({len(lines_of_all) - _ROWS} more)"] if lines_of_all[_ROWS:] else []
    return ["", title, *(text.cut(f"  {each}", text.WIDTH) for each in lines_of_all[:_ROWS]), *more]


def _shared_line(storage: Storage) -> str:
    savers = ", ".join(f"{each.name} of {each.node} ({text.place(each.line)})" for each in storage.savers)
    return f"{text.size(storage.bytes)}  {text.shape(storage.shape, storage.dtype)}: {savers}"


def _copy_line(copy: Copy) -> str:
    source = f"{copy.source_dtype} {copy.source}".strip()
    sizes = f"{text.size(copy.source_bytes)} in {source}, {text.size(copy.bytes)} in {copy.dtype}"
    return f"{sizes}: {text.line(copy.line)}"


# --- Looking ----------------------------------------------------------------------------------------


def saved_memory(graph: Any, module: nn.Module | None = None) -> SavedMemory:
    """What a graph keeps for backward, by line of code, by kind of node and by module.

    Lines are known of nodes that were made while torch_ext noted them: in its anomaly mode, or under
    :func:`torch_ext.graph.noting`. The sums hold without.

    Args:
        graph: tensors, nodes or gradient edges, one or in lists, tuples and dicts: those that backward is called on.
        module: gives parameters, buffers and modules their names.

    Returns:
        The sums in bytes. A storage counts once, whole, for the first node that keeps it, however many views and
        nodes there are. What a hook has packed counts if it is a tensor or a tuple, list or dict with tensors.

    Raises:
        TypeError: ``graph`` has something else in it.
    """
    return _Survey(nodes_of(roots_of(graph, "saved_memory")), module).result()


def bytes_kept(nodes: Iterable[Node]) -> int:
    """``saved_memory(...).total`` of the nodes, without looking up their lines."""
    found = _Survey(nodes, sums_only=True).found.values()
    return sum(each.bytes for each in found if each.role in _KEPT)


@dataclass
class _Found:
    """A storage, and what is found about it; the tensor keeps it at its address."""

    tensor: torch.Tensor
    bytes: int
    device: str
    shape: tuple[int | str, ...]
    dtype: str
    role: str
    name: str
    savers: list[Saver]


class _Survey:
    """Looks at nodes in forward's order."""

    def __init__(self, order: Iterable[Node], module: nn.Module | None = None, sums_only: bool = False) -> None:
        self.order = order
        self.modules = None if sums_only else Modules(module)
        self.names: dict[int, tuple[str, str]] = {}
        for role, named in _named(module):
            for name, tensor in named:
                for part in _compat.parts_of(tensor):
                    storage = _compat.storage_of(part)
                    if storage is not None:
                        self.names.setdefault(storage[0], (role, name))
        self.found: dict[int, _Found] = {}
        self.packed: dict[str, int] = {}
        self.freed = self.noted = 0
        self.origins: dict[Node, torch.Tensor] = {}
        for node in order:
            self._look_at(node)

    def result(self) -> SavedMemory:
        storages = [
            Storage(
                each.bytes,
                each.device,
                each.shape,
                each.dtype,
                each.role,
                each.name,
                tuple(dict.fromkeys(each.savers)),
            )
            for each in self.found.values()
        ]
        packed = tuple(Packed(hook, count) for hook, count in self.packed.items())
        ordered = tuple(sorted(storages, key=lambda each: -each.bytes))
        return SavedMemory(len(list(self.order)), self.freed, self.noted, ordered, tuple(self._copies()), packed)

    def _look_at(self, node: Node) -> None:
        line, module = None, ""
        if self.modules is not None:
            stack = stack_of(node)
            line, module = line_of(stack), self.modules.of(node, stack)
        self.noted += line is not None
        freed = (_C.notes_of(node) or (0, 0))[1] > 0
        variable = _compat.variable_of(node)
        if variable is not None:
            self._add(variable, None)
            self.origins.setdefault(node, variable)
        for name, value, hook in _compat.kept_by(node):
            freed = freed or value is _compat.FREED
            tensors = list(_tensors_in(value))
            produced = _compat.is_of_torch(node) and name.startswith("result")
            for tensor in tensors:
                self._add(tensor, Saver(name_of(node), name, line, module), RESULT if produced else None)
                if hook is None:
                    self._note_origin(node, name, tensor)
            if not tensors and (hook is not None or value is _compat.BUSY):
                label = getattr(hook, "__qualname__", type(hook).__name__)
                label = "a backward that runs now" if value is _compat.BUSY else label
                self.packed[label] = self.packed.get(label, 0) + 1
        self.freed += freed

    def _add(self, tensor: torch.Tensor, saver: Saver | None, role: str | None = None) -> None:
        # An operator's own result is saved without its place in the graph.
        role = role or _role_of(tensor)
        for part in _compat.parts_of(tensor):
            storage = _compat.storage_of(part)
            if storage is None:
                if saver is not None:
                    label = "an operator that gave a tensor without a storage"
                    self.packed[label] = self.packed.get(label, 0) + 1
                continue
            key, size, device = storage
            found = self.found.get(key)
            if found is None:
                known, name = self.names.get(key, (role, ""))
                found = self.found[key] = _Found(part, size, device, *_compat.form_of(part), known, name, [])
            elif found.role == OUTSIDE:
                found.role = role
            if saver is not None:
                found.savers.append(saver)

    # --- Two dtypes ---

    def _note_origin(self, node: Node, name: str, tensor: torch.Tensor) -> None:
        """Remembers a tensor on the storage that the node which produced it has returned."""
        base = _compat.base_of(tensor)
        origin = node if name == "result" else node_of(base)
        if origin is not None and (name == "result" or not base.is_leaf):
            self.origins.setdefault(origin, base)

    def _copies(self) -> Iterator[Copy]:
        for node in self.order:
            if name_of(node) != "ToCopyBackward0":
                continue
            before, after = self._origin(node.next_functions[0][0]), self.origins.get(node)
            if before is None or after is None:
                continue
            old, new = _compat.storage_of(before), _compat.storage_of(after)
            dtypes = [_compat.form_of(each)[1] for each in (before, after)]
            if old is not None and new is not None and dtypes[0] != dtypes[1]:
                name = self.names.get(old[0], ("", ""))[1]
                yield Copy(dtypes[0], old[1], name, dtypes[1], new[1], line_of(stack_of(node)))

    def _origin(self, node: Node | None) -> torch.Tensor | None:
        """What ``node`` has returned; if that is a view, what it is a view of."""
        while node is not None and node not in self.origins and name_of(node) in _VIEWS:
            node = node.next_functions[0][0]
        return None if node is None else self.origins.get(node)


def _named(module: nn.Module | None) -> Iterator[tuple[str, Iterator[tuple[str, torch.Tensor]]]]:
    if module is not None:
        yield PARAMETER, module.named_parameters()
        yield BUFFER, module.named_buffers()


def _role_of(tensor: torch.Tensor) -> str:
    with _compat.without_overrides():
        if not tensor.requires_grad:
            # Views that were made without grad too.
            return PARAMETER if isinstance(_compat.base_of(tensor), nn.Parameter) else OUTSIDE
        base = _compat.base_of(tensor)
        if isinstance(base, nn.Parameter):
            return PARAMETER
        return LEAF if base.is_leaf and base.requires_grad else RESULT


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in a value, also in plain tuples, lists and dicts."""
    if _compat.is_tensor(value):
        yield value
    elif type(value) in (tuple, list, dict):
        for each in value.values() if type(value) is dict else value:
            yield from _tensors_in(each)
