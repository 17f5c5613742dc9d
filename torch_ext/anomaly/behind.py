# SPDX-License-Identifier: BSD-3-Clause
"""What a node has saved and whose values changed behind autograd's back: without a new version."""

from torch.autograd.graph import Node

from .. import _C, _compat
from .facts import Modified
from .graph import origin_of
from .places import with_line, wrapped
from .values import names_of_saved

# Statistics that a normalization updates as it runs: its backward doesn't use them then.
_CHANGED_BY_TORCH = ("running_mean", "running_var")


def is_changed_by_torch(node: Node, index: int, count: int) -> bool:
    """Whether torch itself changes the ``index``th of ``count`` tensors that the node has saved."""
    return _compat.is_of_torch(node) and names_of_saved(node, count)[index] in _CHANGED_BY_TORCH


def explain(node: Node) -> Modified | None:
    """What the node has saved and has changed since; None if nothing has."""
    changed = _C.changed_saved(node)
    if changed is None:
        return None
    tensor, index, count = changed
    version = _compat.version_of(tensor) or 0
    with _compat.without_overrides():
        shape = tuple(tensor.shape)
        made_by = tensor.grad_fn
    maker = None if made_by is None else origin_of(made_by)
    name = names_of_saved(node, count)[index]
    return Modified(origin_of(node), name, shape, maker, version, version, (), _compat.hooked_tensors(node))


def note(modified: Modified) -> str:
    """What is known as a text."""
    node = modified.origin
    shape = " x ".join(map(str, modified.shape)) or "no dimensions"
    lines = [
        with_line(f"{node.name}, made", node.frames),
        f"needs what it saved as {modified.saved} ({shape}), and the values of that have changed since.",
    ]
    if modified.maker is not None and modified.maker != node:
        lines.append(with_line(f"That tensor was made by {modified.maker.name}", modified.maker.frames))
    lines.append(f"Its version is {modified.version} still: no operator that autograd knows of has changed it.")
    if modified.unchecked:
        lines.append(f"Not looked at: {modified.unchecked} more of what it saved, which a hook unpacks.")
    way = "What helps: write to a clone() of it, or change it by an operator in place, and not through .data, numpy, "
    return "\n".join([*lines, wrapped(f"{way}DLPack or a pointer.")])
