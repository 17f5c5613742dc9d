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
    """A node's name and the forward call that created it, outermost frame first.

    There are no frames if the node was created outside anomaly mode.
    """

    name: str
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class Birth(Origin):
    """The first node known to have produced values that are not finite, or to have saved such an input.

    Args:
        produced: whether it produced them; if not, they came from outside the graph.
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
        name: the node's name.
        place: the innermost frame outside torch of the forward call that created it, if known.
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
    """What is known at the failing node itself.

    Args:
        origin: the node.
        parents: in double backward the node whose backward created it, then that one's, and so on.
        thread: the thread that its backward ran on.
    """

    origin: Origin
    parents: tuple[Origin, ...]
    thread: int
