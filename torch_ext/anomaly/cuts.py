# SPDX-License-Identifier: BSD-3-Clause
"""Where values left the graph."""

import re
from collections.abc import Iterable

import torch
from torch.autograd.graph import GradientEdge

from .. import _C, _compat
from .facts import Cut
from .graph import frames_of_stack
from .places import is_ours, line_of, with_line

_MESSAGE = re.compile(r"^element (?P<index>\d+) of tensors does not require grad and does not have a grad_fn")
_MOST_LISTED = 5
_WORDS = {
    "detach": "by {call}",
    "no_grad": "under no_grad, in {call}",
    "inference_mode": "in inference mode, in {call}",
    "not differentiable": "by {call}, which has no derivative,",
    "number": "as a number, by {call}",
}


def read(numbers: Iterable[int], followed: bool) -> tuple[Cut, ...]:
    """The cuts with these numbers that are remembered, newest first, one for each line and reason."""
    found: dict[object, Cut] = {}
    for number in sorted(set(numbers), reverse=True):
        cut = _C.cut(number)
        if cut is not None:
            operator, reason, stack, _ = cut
            frames = frames_of_stack(stack)
            if is_ours(frames):
                continue
            # An operator that consists of others has the same line, and ends last.
            found.setdefault((line_of(frames), reason), Cut(operator, reason, frames, followed))
    return tuple(found.values())


def behind(message: str, roots: tuple[torch.Tensor | GradientEdge, ...]) -> tuple[tuple[Cut, ...], torch.Tensor] | None:
    """The cuts that the values of a root come from, and the root, if the error says that it doesn't require grad.

    If that is not known, where values have left the graph since the last backward.
    """
    match = _MESSAGE.match(message)
    if match is None or int(match["index"]) >= len(roots):
        return None
    root = roots[int(match["index"])]
    if not isinstance(root, torch.Tensor):
        return None
    with _compat.without_overrides():
        known = read(_C.cuts_of(root), True)
    # This backward has begun too.
    return known or read(_C.recent_cuts(max(_C.backwards() - 1, 0)), False), root


def note(root: torch.Tensor, cuts: tuple[Cut, ...]) -> str:
    """The same as a text."""
    with _compat.without_overrides():
        shape = " x ".join(map(str, root.shape)) or "no dimensions"
    lines = [f"Backward was called on a tensor ({shape}) that is in no graph."]
    if not cuts:
        lines.append(
            "No operator was seen to take values out of one: does anything that it was computed from require grad?"
        )
    else:
        lines.append("Its values left the graph" if cuts[0].followed else "Since the last backward values left a graph")
        lines += [text(cut, "  ") for cut in cuts[:_MOST_LISTED]]
        if len(cuts) > _MOST_LISTED:
            lines.append(f"  and in {len(cuts) - _MOST_LISTED} more places")
    return "\n".join(lines)


def text(cut: Cut, head: str = "") -> str:
    """How and where values left, after ``head``: "by detach() at train.py:12: h = h.detach()"."""
    call = cut.operator.partition("::")[2].lstrip("_").replace("local_scalar_dense", "item").replace("to_copy", "to")
    return with_line(head + _WORDS[cut.reason].format(call=f"{call}()"), cut.frames)
