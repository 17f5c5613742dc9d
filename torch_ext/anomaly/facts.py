# SPDX-License-Identifier: BSD-3-Clause
"""What a report is made of: names, numbers and source lines, which keep no graph alive."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    """A call on the stack.

    Args:
        file, line: where it is; lines are counted from 1.
        function: the name of the function that was running.
        source: the text of the line, "" if there is none.
    """

    file: str
    line: int
    function: str
    source: str


@dataclass(frozen=True)
class Origin:
    """A node's name and the forward call that created it, outermost frame first.

    Args:
        name: the node's name.
        frames: the call; none if the node was created outside anomaly mode.
    """

    name: str
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class Birth(Origin):
    """The node in whose forward call values were first not finite.

    Args:
        name, frames: the node and its forward call.
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
class Argument:
    """A tensor of numbers that a call in forward was given.

    Args:
        name: what the operator calls it; "argument 0" and so on of a Function.
        shape: its shape.
        nans, infs: how many of its numbers are NaN and infinite; None if that isn't known, or if the call has changed
            it.
        maker: the node that made it; None if none did.
    """

    name: str
    shape: tuple[int, ...]
    nans: int | None
    infs: int | None
    maker: Origin | None


@dataclass(frozen=True)
class Change:
    """A change of a tensor in place.

    Args:
        operator: what did it, ``"aten::add_"`` for example; "" if no operator was seen to.
        before, after: the tensor's versions.
        frames: the call that did it, outermost first: its innermost two dozen.
    """

    operator: str
    before: int
    after: int
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class Modified:
    """A tensor that was changed in place though a node needs it.

    Args:
        origin: the node.
        saved: what the node calls the tensor.
        shape: the tensor's.
        maker: the node that made it; None if that isn't known, or if it is a leaf.
        expected, version: its versions when it was saved, and when it was needed.
        changes: what happened in between, in order.
        unchecked: with ``check_saved``, how many other tensors that the node has saved were not looked at.
    """

    origin: Origin
    saved: str
    shape: tuple[int, ...]
    maker: Origin | None
    expected: int
    version: int
    changes: tuple[Change, ...]
    unchecked: int = 0


@dataclass(frozen=True)
class Freed:
    """A node that an earlier backward has freed.

    Args:
        origin: the node.
        backward: the call of the backward that freed it, outermost first; empty if that isn't known.
        path: the nodes from what backward was called on now to the freed one.
        crossing: the first of them that was made before the backward that freed it; None if that isn't known.
        later: the one before it, which was made after that backward, and so leads from one iteration's graph into an
            earlier one's; None if all were made before.
    """

    origin: Origin
    backward: tuple[Frame, ...]
    path: tuple[Origin, ...]
    crossing: Origin | None
    later: Origin | None


@dataclass(frozen=True)
class Cut:
    """A place in which values left the graph.

    Args:
        operator: what was called, "aten::detach" for example.
        reason: "detach", "no_grad", "inference_mode", "not differentiable", or "number" if it returned no tensor.
        frames: the call, outermost first: its innermost two dozen.
        followed: whether the values are known to have come from there; if not, it is only known that values left the
            graph there.
    """

    operator: str
    reason: str
    frames: tuple[Frame, ...]
    followed: bool


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
        begun: how many backwards had begun by then, in this process.
        kept: what it had saved, by then freed, and the checked result of its forward call.
    """

    origin: Origin
    parents: tuple[Origin, ...]
    thread: int
    begun: int
    kept: tuple[Sight, ...] = ()
