# SPDX-License-Identifier: BSD-3-Clause
"""What the reports on graphs are made of: names, numbers and source lines, which keep no graph alive."""

from dataclasses import dataclass

from ..anomaly.facts import Frame


@dataclass(frozen=True)
class Saver:
    """A node that keeps a storage.

    Args:
        node: the node's kind, its name.
        name: what the node calls the tensor: "self", "result", "tensors[0]"; "ctx.x" for an attribute of ctx.
        line: the line that made the node; None if that was not noted.
        module: the module that it belongs to, as "layers.0 (Linear)" or "Linear"; "" if that isn't known.
    """

    node: str
    name: str
    line: Frame | None
    module: str


@dataclass(frozen=True)
class Storage:
    """A piece of memory that is kept.

    Args:
        bytes: its size.
        device: where it is: "cpu", "cuda:0".
        shape, dtype: of the first tensor on it that is saved.
        role: "result" of an operator in the graph; "outside", a tensor that no node of the graph produced (data, a
            mask, indices); "parameter", "buffer" of the module given, or another "leaf" that requires grad.
        name: of a parameter or a buffer of the module given; else "".
        savers: the nodes that keep it, in forward's order; its bytes are counted for the first. A leaf that no node
            has saved has none.
    """

    bytes: int
    device: str
    shape: tuple[int | str, ...]
    dtype: str
    role: str
    name: str
    savers: tuple[Saver, ...]


@dataclass(frozen=True)
class Copy:
    """A tensor that is kept in two dtypes.

    Args:
        source_dtype, source_bytes: of the tensor that was converted, and of its storage.
        source: its name if it is a parameter or a buffer of the module given; else "".
        dtype, bytes: of the copy, and of its storage.
        line: the line that made the copy.
    """

    source_dtype: str
    source_bytes: int
    source: str
    dtype: str
    bytes: int
    line: Frame | None


@dataclass(frozen=True)
class Packed:
    """Saved tensors that a hook has packed into something whose memory isn't known.

    Args:
        hook: the name of the function that will unpack them.
        count: how many there are.
    """

    hook: str
    count: int


@dataclass(frozen=True)
class Row:
    """What one line, kind of node or module keeps.

    Args:
        label: which one.
        bytes: how much.
        storages: in how many storages.
    """

    label: str
    bytes: int
    storages: int
