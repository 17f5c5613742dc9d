# SPDX-License-Identifier: BSD-3-Clause
"""What a report is made of: names, numbers and source lines, which keep no graph alive."""

import math
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
    """The node in whose forward call values were first not finite.

    Args:
        exact: whether that is certain; if not, they became so in this call or in one before it.
        produced: whether the call produced them; if not, and this is exact, they came from outside the graph: from
            data, a parameter, a constant, or the gradient that backward was called with.
        tensor: where they were seen.
        nans, infs: how many values of that tensor are NaN and infinite.
        after: the failing node, if all values are known to be finite up to its forward call.
    """

    exact: bool
    produced: bool
    tensor: str
    nans: int
    infs: int
    after: Origin | None = None


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
class Value:
    """What is known of the numbers in a tensor.

    Args:
        nans, infs: how many are NaN and infinite.
        largest: no finite one has a greater magnitude.
        on_purpose: whether the infinities come from a constant, as those of a mask do.
    """

    nans: int = 0
    infs: int = 0
    largest: float = math.inf
    on_purpose: bool = False

    @property
    def finite(self) -> bool:
        """Whether all numbers are finite."""
        return not (self.nans or self.infs)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong: all are finite, but for infinities on purpose."""
        return not self.nans and (self.on_purpose or not self.infs)


@dataclass(frozen=True)
class Sight:
    """A tensor that a node has saved or that is known otherwise.

    Args:
        producer: the id of the metadata of the node that produced it, which holds no graph; None if no node did.
        output: which of that node's outputs it is.
        name: what its holder calls it: "self", "result" ...
        label: the same for people.
        value: what it holds.
        trainable: whether it requires grad.
    """

    producer: int | None
    output: int
    name: str
    label: str
    value: Value
    trainable: bool


@dataclass(frozen=True)
class Failure:
    """What is known at the failing node itself.

    Args:
        origin: the node.
        parents: in double backward the node whose backward created it, then that one's, and so on.
        thread: the thread that its backward ran on.
        kept: what it had saved, by then freed, and the checked result of its forward call.
    """

    origin: Origin
    parents: tuple[Origin, ...]
    thread: int
    kept: tuple[Sight, ...] = ()
