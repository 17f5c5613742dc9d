# SPDX-License-Identifier: BSD-3-Clause
"""Which line changed a tensor in place that a node needs for its backward."""

import re
from typing import Any

import torch
from torch.autograd.graph import Node

from .. import _C, _compat
from .facts import Change, Modified, Origin
from .graph import frames_of_stack, name_of, origin_of
from .places import at, is_inside_torch, line_of, with_line, wrapped

_MODIFIED = re.compile(
    r"^one of the variables needed for gradient computation has been modified by an inplace operation: "
    r"\[.*?\]\](?:, which is output (?P<output>\d+) of (?P<maker>.+?),)? is at version (?P<version>\d+); "
    r"expected version (?P<expected>\d+) instead"
)
_ASSIGNMENTS = ("aten::copy_", "aten::fill_", "aten::index_put_", "aten::_index_put_impl_", "aten::masked_fill_")
_MOST_LISTED = 12
_MOST_STEPS = 100


# --- What is known ----------------------------------------------------------------------------------


def describe(node: Node, message: str) -> Modified | None:
    """What is known of the tensor that the error ``message`` of the backward of ``node`` is about; None if nothing."""
    match = _MODIFIED.match(message)
    if match is None:
        return None
    version, expected = int(match["version"]), int(match["expected"])
    saved = _find_saved(node, version, expected)
    if saved is None:
        return None
    name, tensor = saved
    output = None if match["output"] is None else int(match["output"])
    return Modified(
        origin=origin_of(node),
        saved=name,
        shape=tuple(tensor.shape),
        maker=_maker(node, name, tensor, match["maker"], output),
        expected=expected,
        version=version,
        changes=_changes(tensor, expected, version),
    )


def _find_saved(node: Node, version: int, expected: int) -> tuple[str, torch.Tensor] | None:
    """The name and the value of what ``node`` has saved at one version and is at another one now."""
    found = []
    for name, raw in _compat.raw_saved_tensors(node):
        data = _compat.data_of_saved(raw)
        if data is not None and _compat.version_of(data) == version and _is_refused(node, name, raw, expected):
            found.append((name, data))
    # One that was really changed since comes first.
    return next((each for each in found if _C.changes_of(each[1], expected)), found[0] if found else None)


def _is_refused(node: Node, name: str, raw: Any, expected: int) -> bool:
    """Whether reading what is saved as ``name`` raises the error too; True if it can't be asked."""
    error = _compat.error_of_saved(node, name, raw)
    match = None if error is None else _MODIFIED.match(error)
    return error != "" and (match is None or int(match["expected"]) == expected)


def _maker(node: Node, saved: str, tensor: torch.Tensor, name: str | None, output: int | None) -> Origin | None:
    """The node that made what ``node`` has saved; None if it isn't known, as for a leaf.

    ``name`` and ``output`` are what torch calls the node that has made it by now, and the number of its output.
    """
    if saved.startswith("result"):
        return origin_of(node)
    inputs = {each: number for each, number in node.next_functions if each is not None}
    makers = [each for each in inputs if _compat.variable_of(each) is None]
    named = [each for each in makers if name in _names(each) and inputs[each] == output]
    found = named if name is not None and named else makers
    if len(found) > 1:
        found = [each for each in (_first_of(makers, tensor),) if each is not None]
    if len(found) == 1:
        return origin_of(found[0])
    return origin_of(node) if not makers and name in _names(node) else None


def _first_of(makers: list[Node], tensor: torch.Tensor) -> Node | None:
    """The first of ``makers`` that the changes of ``tensor``, if they are in the graph, lead back to."""
    # The grad_fn of a view that was changed would be made anew.
    step = None if tensor._is_view() else tensor.grad_fn
    for _ in range(_MOST_STEPS):
        if step is None or step in makers:
            return step
        step = step.next_functions[0][0] if step.next_functions else None
    return None


def _names(node: Node) -> tuple[str, str]:
    """What torch calls a node in its messages: before torch 2.13 by its name, then by that of its forward."""
    name = name_of(node)
    return name, re.sub(r"Backward\d*$", "", name)


def _changes(tensor: torch.Tensor, expected: int, version: int) -> tuple[Change, ...]:
    """Each change between two versions of a tensor, those that nobody saw included."""
    changes = []
    now = expected
    for operator, before, after, stack in _C.changes_of(tensor, expected):
        if before > now:
            changes.append(Change("", now, before, ()))
        changes.append(Change(operator, max(before, now), after, frames_of_stack(stack)))
        now = after
    if now < version:
        changes.append(Change("", now, version, ()))
    return tuple(changes)


# --- The same for people -----------------------------------------------------------------------------


def note(modified: Modified) -> str:
    """What is known as a text."""
    node, changes = modified.origin, modified.changes
    shape = " x ".join(map(str, modified.shape)) or "no dimensions"
    lines = [
        with_line(f"{node.name}, made", node.frames),
        f"needs what it saved as {modified.saved} ({shape}), and that was changed in place since.",
    ]
    if modified.maker is not None and modified.maker != node:
        lines.append(with_line(f"That tensor was made by {modified.maker.name}", modified.maker.frames))
    lines.append(f"Changes since it was saved, from version {modified.expected} to {modified.version}:")
    lines += map(_change, changes[:_MOST_LISTED])
    if len(changes) > _MOST_LISTED:
        lines.append(f"  and {len(changes) - _MOST_LISTED} more")
    return "\n".join([*lines, wrapped(_way_out(modified))])


def _change(change: Change) -> str:
    if change.operator:
        return with_line(f"  to version {change.after} by {change.operator}", change.frames)
    return f"  to version {change.after} by something unseen: increment_version(), compiled code, a Function of torch"


def _way_out(modified: Modified) -> str:
    first = next((each for each in modified.changes if each.operator), None)
    if first is None:
        return "What helps: give whatever changes it a clone()."
    if is_inside_torch(first.frames, "optim"):
        return f"What helps: call backward before the optimizer's step{at(first.frames)}, or compute the loss again."
    name = first.operator.partition("::")[2]
    copy = f"change a clone() of it{at(first.frames)}"
    if first.operator in _ASSIGNMENTS:
        return f"What helps: {copy}, or build the new tensor with torch.where(), torch.cat() or torch.stack()."
    if name.endswith("_") and not name.startswith("_"):
        return f"What helps: use {name[:-1]}() in place of {name}(), which returns a new tensor, or {copy}."
    line = line_of(first.frames)
    if line is not None and "out=" in line.source:
        return f"What helps: leave out= away{at(first.frames)}, so that a new tensor is returned, or {copy}."
    return f"What helps: {copy}."
