# SPDX-License-Identifier: BSD-3-Clause
"""Why a parameter has, or has no, gradient of a loss."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import GradientEdge, Node

from .. import _C, _compat
from ..anomaly import cuts
from ..anomaly.facts import Cut, Origin
from ..anomaly.graph import frames_of, metadata_of, node_of, origin_of, path_to, reachable
from ..anomaly.places import with_line

_MOST_CUTS = 3
_INDENT = "    "


@dataclass(frozen=True)
class Reach:
    """Whether a loss reaches a parameter.

    Args:
        name: the parameter's.
        shape: its shape.
        reached: whether a backward from the loss would give it a gradient.
        why: "reached"; "doesn't require grad"; "not a leaf", whose gradient isn't kept without ``retain_grad()``;
            "cut", if its values left the graph on the way; "as data", if a node took it as a constant, as ``.data``
            gives it; "no path", if nothing that the loss was computed from leads to it.
        path: the nodes from the loss to it; empty if there is no way.
        cuts: where its values left the graph.
        used: the nodes that took it as a constant.
    """

    name: str
    shape: tuple[int, ...]
    reached: bool
    why: str
    path: tuple[Origin, ...] = ()
    cuts: tuple[Cut, ...] = ()
    used: tuple[Origin, ...] = ()

    def __str__(self) -> str:
        head = f"{self.name} ({' x '.join(map(str, self.shape)) or 'no dimensions'}): "
        return head + f"\n{_INDENT}".join(self._lines())

    def _lines(self) -> list[str]:
        if self.reached:
            return ["reached", *_route(self.path)]
        if self.why == "doesn't require grad":
            return ["gets no gradient: requires_grad is False"]
        if self.why == "not a leaf":
            made = self.path[-1] if self.path else None
            by = [] if made is None else [_step(made)]
            return ["no leaf, so that its gradient is not kept without retain_grad(): it was made", *by]
        if self.why == "as data":
            return ["not reached: it was used as a constant", *map(_step, self.used)]
        if self.why == "cut":
            lines = ["not reached: its values left the graph"]
            lines += [cuts.text(cut, _INDENT)[len(_INDENT) :] for cut in self.cuts[:_MOST_CUTS]]
            if self.cuts[0].reason == "number":
                lines.append("(what Python computes from a number can't be followed)")
            elif not self.cuts[0].followed:
                lines.append("(what was computed from them then was not followed: noting(follow=True) does that)")
            return lines
        return ["not reached: no operator on the way to the loss was given it"]


@dataclass(frozen=True)
class Explanation:
    """For each parameter whether a loss reaches it, and why not. ``str()`` is a text for people.

    Args:
        parameters: what is known of each.
        in_graph: whether the loss requires grad at all.
        cuts: if not, where its values left the graph.
        noted: how many of the graph's nodes were made while noting, and so have a line.
        nodes: how many nodes there are.
    """

    parameters: tuple[Reach, ...]
    in_graph: bool
    cuts: tuple[Cut, ...]
    noted: int
    nodes: int

    @property
    def unreached(self) -> tuple[Reach, ...]:
        """The parameters that get no gradient; those that DistributedDataParallel calls unused are among them."""
        return tuple(each for each in self.parameters if not each.reached)

    def __getitem__(self, name: str) -> Reach:
        """What is known of the parameter with this name. KeyError if there is none."""
        for each in self.parameters:
            if each.name == name:
                return each
        raise KeyError(f"no parameter is called {name!r}; there are {', '.join(each.name for each in self.parameters)}")

    def to_json(self, indent: int | None = 2) -> str:
        """The same as the text of a JSON object, indented by ``indent`` spaces; None for one line."""
        return json.dumps(dataclasses.asdict(self), indent=indent)

    def __str__(self) -> str:
        lines = []
        if not self.in_graph:
            lines.append("The loss is in no graph: it requires no grad.")
            lines += [cuts.text(cut, "    its values left the graph ") for cut in self.cuts[:_MOST_CUTS]]
        count = len(self.parameters) - len(self.unreached)
        lines.append(f"The loss reaches {count} of {len(self.parameters)} parameters.")
        lines += map(str, self.unreached)
        lines += (str(each) for each in self.parameters if each.reached)
        if self.noted < self.nodes:
            silent = self.nodes - self.noted
            lines.append(f"{silent} of {self.nodes} nodes were made while nobody noted: their lines are not known.")
        return "\n".join(lines)


def explain(
    loss: torch.Tensor | GradientEdge | Sequence[torch.Tensor | GradientEdge],
    parameters: torch.nn.Module | torch.Tensor | Mapping[str, torch.Tensor] | Iterable[Any],
) -> Explanation:
    """Says for each parameter whether ``loss`` reaches it, by which lines, and if not, why.

    Runs no backward and changes nothing. Lines are known for what ran in torch_ext's anomaly mode or in
    :class:`torch_ext.graph.noting`. Where values left the graph is known for what ran in anomaly mode or in
    ``noting(operators=True)``: in ``detach()``, in an operator without a derivative, as a number (``item()``), and
    under ``no_grad`` and ``inference_mode``.

    Args:
        loss: what backward would be called on: a tensor or an edge, or several.
        parameters: a module, whose parameters are meant with their names; a tensor; tensors; pairs of a name and a
            tensor, as ``named_parameters()`` gives them; a dict of them; or what an optimizer takes.

    Raises:
        TypeError: ``loss`` or one of the parameters is none of these.
    """
    roots = _roots(loss)
    named = _named(parameters)
    graph = reachable(roots)
    leaves = {id(leaf): node for node in graph if (leaf := _compat.variable_of(node)) is not None}
    known = _cuts_in(graph, roots)
    data = _constants(graph)
    reaches = tuple(_reach(name, tensor, graph, leaves, known, data) for name, tensor in named)
    in_graph = bool(graph)
    behind: tuple[Cut, ...] = ()
    if not in_graph:
        behind = cuts.read(known, True) or cuts.read(_C.recent_cuts(_C.backwards()), False)
    noted = sum(bool(frames_of(metadata_of(node))) or _compat.variable_of(node) is not None for node in graph)
    return Explanation(reaches, in_graph, behind, noted, len(graph))


# --- Arguments --------------------------------------------------------------------------------------


def _roots(loss: Any) -> tuple[torch.Tensor | GradientEdge, ...]:
    roots = (loss,) if isinstance(loss, (torch.Tensor, GradientEdge)) else loss
    if not isinstance(roots, Sequence) or not all(isinstance(each, (torch.Tensor, GradientEdge)) for each in roots):
        raise TypeError(f"loss has to be a tensor, a GradientEdge or a sequence of them, got {type(loss).__name__}")
    return tuple(roots)


def _named(parameters: Any) -> list[tuple[str, torch.Tensor]]:
    if isinstance(parameters, torch.nn.Module):
        return list(parameters.named_parameters())
    if isinstance(parameters, torch.Tensor):
        parameters = [parameters]
    pairs = parameters.items() if isinstance(parameters, Mapping) else parameters
    named: list[tuple[str, torch.Tensor]] = []
    for number, each in enumerate(pairs):
        if isinstance(each, Mapping):  # a group of an optimizer's
            named += [(f"{number}.{name}", tensor) for name, tensor in _named(each["params"])]
        elif isinstance(each, torch.Tensor):
            named.append((str(number), each))
        elif isinstance(each, tuple) and len(each) == 2 and isinstance(each[1], torch.Tensor):
            named.append((str(each[0]), each[1]))
        else:
            raise TypeError(
                "parameters has to be a module, a tensor, tensors, or pairs of a name and a tensor; "
                f"there is {type(each).__name__} among them"
            )
    return named


# --- What is known ----------------------------------------------------------------------------------


def _cuts_in(graph: dict[Node, Node | None], roots: tuple[torch.Tensor | GradientEdge, ...]) -> set[int]:
    """Numbers of the cuts that something comes from that the graph was computed from."""
    numbers: set[int] = set()
    with _compat.without_overrides():
        for root in roots:
            if isinstance(root, torch.Tensor):
                numbers.update(_C.cuts_of(root))
        for node in graph:
            numbers.update(_C.cuts_of(node))
            for _, tensor in _compat.saved_tensors(node):
                if not tensor.requires_grad:
                    numbers.update(_C.cuts_of(tensor))
    return numbers


def _constants(graph: dict[Node, Node | None]) -> dict[int, list[Node]]:
    """The nodes that have saved a tensor that doesn't require grad, by its memory."""
    users: dict[int, list[Node]] = {}
    with _compat.without_overrides():
        for node in graph:
            for _, tensor in _compat.saved_tensors(node):
                memory = _compat.memory_of(tensor)
                if not tensor.requires_grad and memory is not None:
                    users.setdefault(memory, []).append(node)
    return users


def _reach(
    name: str,
    tensor: torch.Tensor,
    graph: dict[Node, Node | None],
    leaves: dict[int, Node],
    known: set[int],
    data: dict[int, list[Node]],
) -> Reach:
    with _compat.without_overrides():
        shape = tuple(tensor.shape)
        if not tensor.requires_grad:
            return Reach(name, shape, False, "doesn't require grad")
        if not tensor.is_leaf:
            node = node_of(tensor)
            path = () if node not in graph else tuple(map(origin_of, path_to(node, graph)))
            if tensor.retains_grad and path:
                return Reach(name, shape, True, "reached", path)
            return Reach(name, shape, False, "not a leaf" if path else "no path", path)
        if id(tensor) in leaves:
            return Reach(name, shape, True, "reached", tuple(map(origin_of, path_to(leaves[id(tensor)], graph))))
        numbers = set(_C.cuts_from(tensor))
        users = data.get(_compat.memory_of(tensor) or 0, [])
    found = cuts.read(numbers & known, True)
    if not found and users:
        return Reach(name, shape, False, "as data", used=tuple(map(origin_of, users)))
    found = found or cuts.read(numbers, False)
    return Reach(name, shape, False, "cut" if found else "no path", cuts=found)


def _step(node: Origin) -> str:
    head = f"{_INDENT}by {node.name}"
    return (with_line(head, node.frames) if node.frames else head)[len(_INDENT) :]


def _route(path: Sequence[Origin]) -> list[str]:
    """The lines that a path goes through, without repeating one."""
    steps: list[str] = []
    for each in path[:-1]:  # the last one accumulates
        step = _step(each)
        if step not in steps:
            steps.append(step)
    return steps if len(steps) <= 3 else [steps[0], f"by {len(steps) - 2} more nodes", steps[-1]]
