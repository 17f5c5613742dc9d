# SPDX-License-Identifier: BSD-3-Clause
"""Which backward freed a graph that another one needs, and how the new graph leads into the old one."""

from torch.autograd.graph import Node

from .. import _C
from .facts import Freed
from .graph import frames_of_stack, origin_of, path_to
from .places import at, line_of, with_line, wrapped

_MESSAGE = "Trying to backward through the graph a second time"


def describe(node: Node, graph: dict[Node, Node | None], message: str) -> Freed | None:
    """What is known of the backward that freed ``node``, if the error ``message`` says that one did.

    ``graph`` has what the failing backward can run, each with the node that it is reached from.
    """
    if not message.startswith(_MESSAGE):
        return None
    notes = _C.notes_of(node)
    number = 0 if notes is None else notes[1]
    call = _C.backward_call(number) if number else None
    path = path_to(node, graph)
    crossing = _crossing(path, number) if number else None
    return Freed(
        origin=origin_of(node),
        backward=() if call is None else frames_of_stack(call),
        path=tuple(map(origin_of, path)),
        crossing=None if crossing is None else origin_of(path[crossing]),
        later=None if not crossing else origin_of(path[crossing - 1]),
    )


def _crossing(path: list[Node], number: int) -> int | None:
    """The first node on the path that was made before the backward with this number had begun."""
    for index, node in enumerate(path):
        notes = _C.notes_of(node)
        if notes is None:
            return None
        if notes[0] < number:
            return index
    return None


def note(freed: Freed) -> str:
    """What is known as a text."""
    name = freed.origin.name
    lines = [with_line(f"{name}, made", freed.origin.frames)]
    if line_of(freed.backward) is None:
        lines.append("was freed by an earlier backward, whose place is not known.")
    else:
        lines.append(with_line("was freed by the backward that was called", freed.backward))
    if freed.later is not None and freed.crossing is not None:
        lines += [
            with_line(f"{freed.later.name}, made after that", freed.later.frames),
            with_line(f"was given what {freed.crossing.name} had returned before it", freed.crossing.frames),
            "so that this backward goes on into the earlier graph.",
        ]
        way_out = f"detach() that value before it is used{at(freed.later.frames)}"
    else:
        way_out = "compute the loss again before each backward"
    names = [each.name for each in freed.path]
    if len(names) > 8:
        names = [*names[:4], f"... {len(names) - 7} more", *names[-3:]]
    lines.append(wrapped(f"The way to it: {' -> '.join(names)}"))
    keep = f" the backward{at(freed.backward)}" if freed.backward else " the earlier backward"
    return "\n".join([*lines, wrapped(f"What helps: {way_out}, or give{keep} retain_graph=True.")])
