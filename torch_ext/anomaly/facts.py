# SPDX-License-Identifier: BSD-3-Clause
"""What a report is made of: names, numbers and source lines, which keep no graph alive."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    """A call on the stack: file, line number, function and source line."""

    file: str
    line: int
    function: str
    source: str


@dataclass(frozen=True)
class Origin:
    """A node's name and the forward call that made it, outermost frame first.

    There are no frames if the node was made outside anomaly mode.
    """

    name: str
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class Birth(Origin):
    """The first node known to have produced (or, of its inputs, saved) values that are not finite.

    Args:
        produced: whether it produced them; if not, it was given them from outside of the graph.
        tensor: where they were seen.
        nans, infs: how many values of that tensor are NaN and infinite.
    """

    produced: bool
    tensor: str
    nans: int
    infs: int


@dataclass(frozen=True)
class Neighbour:
    """A node near the failing one.

    Args:
        name: of the node.
        place: the innermost frame outside torch of the forward call that made it, if known.
        failing: whether it is the failing node.
        born: whether it is where values were first not finite.
    """

    name: str
    place: Frame | None
    failing: bool
    born: bool


@dataclass(frozen=True)
class Edge:
    """Output ``output`` of the backward of neighbour ``start`` goes to neighbour ``end``."""

    start: int
    end: int
    output: int


@dataclass(frozen=True)
class Failure:
    """What the failing node itself tells.

    Args:
        origin: the node.
        parents: in double backward the node whose backward made it, then that one's, and so on.
        thread: the one that its backward ran on.
    """

    origin: Origin
    parents: tuple[Origin, ...]
    thread: int
