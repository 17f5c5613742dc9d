# SPDX-License-Identifier: BSD-3-Clause
"""Where values stopped being finite: what a graph and what was kept of the failing node tell together.

A node is *exact* if it is known to have given values that are not finite, and what it was given is known to be sound.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.autograd.graph import GradientEdge, Node

from .. import _compat
from . import rules
from .facts import Sight, Value
from .graph import metadata_of, name_of, next_nodes, node_of
from .values import sight, sights, source_of

#: Names and tensors that nodes had saved, which are gone by now.
Late = Mapping[Node, Sequence[tuple[str, torch.Tensor]]]

FINITE, NOT_FINITE, UNKNOWN = "finite", "not finite", "unknown"


@dataclass(frozen=True)
class Finding:
    """Where values that are not finite were seen first.

    Args:
        node: the node that gave them or was given them.
        exact: whether they arose there; if not, there or before.
        produced: whether they arose in the operator; if not, they came from outside the graph, or that isn't known.
        label: where they were seen.
        value: what was seen.
        after: a node up to which all is sound, if they arose behind it.
    """

    node: Node
    exact: bool
    produced: bool
    label: str
    value: Value
    after: Node | None = None


def find(
    failing: Node,
    graph: Iterable[Node],
    roots: Sequence[torch.Tensor | GradientEdge],
    gradients: Sequence[torch.Tensor | None],
    kept: Sequence[Sight],
    late: Late | None = None,
) -> tuple[str, Finding | None]:
    """Whether values were finite in forward (FINITE, NOT_FINITE or UNKNOWN) up to ``failing``, and where they were not.

    Args:
        failing: the node whose backward gave NaN.
        graph: all nodes that backward can run.
        roots: what backward was called on.
        gradients: what it was called with.
        kept: what ``failing`` had saved, which is gone by now.
        late: the same of nodes that have run since.
    """
    given = bad_gradient(roots, gradients)
    if given is not None:
        return NOT_FINITE, given
    known = _Known(failing, list(graph), roots, kept, late or {})
    behind = [node for node in known.order if node not in known.before]
    if known.is_sound(failing):
        found = known.first(behind) if known.bad_root else None
        return (FINITE, None) if found is None else (NOT_FINITE, dataclasses.replace(found, after=failing))
    found = known.first(forward_order([failing])) or (known.first(behind) if known.bad_root else None)
    found = found or known.masked(failing)
    return (UNKNOWN, None) if found is None else (NOT_FINITE, found)


def find_before(root: Node, graph: Iterable[Node], roots: Sequence[torch.Tensor | GradientEdge]) -> Finding | None:
    """Where values stopped being finite on the way to ``roots``, to one of which ``root`` belongs."""
    known = _Known(root, list(graph), roots, (), {})
    return known.first(forward_order([root]))


def bad_gradient(
    roots: Sequence[torch.Tensor | GradientEdge], gradients: Sequence[torch.Tensor | None], infinite: bool = False
) -> Finding | None:
    """NaN, or infinities if they count, in what backward was called with."""
    for root, gradient in zip(roots, gradients, strict=False):
        seen = None if gradient is None else sight(gradient, "", "the gradient that backward was called with")
        if seen is not None and (seen.value.nans or (infinite and seen.value.infs)):
            node = node_of(root)
            if node is not None:
                return Finding(node, True, False, seen.label, seen.value)
    return None


def forward_order(ends: Iterable[Node]) -> list[Node]:
    """``ends`` and everything that they were computed from, inputs first."""
    order: list[Node] = []
    seen: set[Node] = set()
    for end in ends:
        if end in seen:
            continue
        seen.add(end)
        stack = [(end, iter(next_nodes(end)))]
        while stack:
            node, inputs = stack[-1]
            for earlier in inputs:
                if earlier not in seen:
                    seen.add(earlier)
                    stack.append((earlier, iter(next_nodes(earlier))))
                    break
            else:
                order.append(node)
                stack.pop()
    return order


def bad_root(roots: Sequence[torch.Tensor | GradientEdge], infinite: bool) -> tuple[Node, Value, int] | None:
    """The first root that is NaN, or infinite if that counts: its node, its value, and its number among the outputs."""
    for root in roots:
        seen = sight(root, "", "") if isinstance(root, torch.Tensor) else None
        if seen is not None and seen.trainable and (seen.value.nans or (infinite and seen.value.infs)):
            node = node_of(root)
            if node is not None:
                return node, seen.value, seen.output
    return None


def _holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Whether what is finite in ``narrow`` is so in ``wide``."""
    if not (wide.is_floating_point and narrow.is_floating_point):
        return wide == narrow
    return torch.finfo(wide).max >= torch.finfo(narrow).max


class _Known:
    """What is known of each value of a graph, by (id of the metadata of its node, number of the output)."""

    def __init__(
        self,
        failing: Node,
        graph: list[Node],
        roots: Sequence[torch.Tensor | GradientEdge],
        kept: Sequence[Sight],
        late: Late,
    ) -> None:
        self.order = forward_order(graph)
        self.before = set(forward_order([failing]))
        self._key = {node: id(metadata_of(node)) for node in self.order}
        self._values: dict[tuple[int, int], tuple[Value, str]] = {}
        # What a node was given that is no value of the graph, and what it saved beside its inputs and results.
        self._constants: dict[Node, list[Sight]] = {node: [] for node in self.order}
        self._own: dict[Node, list[Sight]] = {node: [] for node in self.order}
        self._roots: set[tuple[int, int]] = set()
        self.bad_root = False
        for seen in kept:
            self._note(failing, seen)
        self._look_at_saved(late)
        self._look_at_roots(roots)
        for node in self.order:
            self._follow(node)
        for node in reversed(self.order):
            self._conclude_inputs(node)
        for node in self.order:
            self._follow(node)

    # --- What can be seen ---

    def _look_at_saved(self, late: Late) -> None:
        saved = {node: list(_compat.saved_tensors(node)) or list(late.get(node, ())) for node in self.order}
        tensors = {}
        for holder in saved.values():
            for _, tensor in holder:
                source = source_of(tensor)
                if source is not None:
                    tensors[source] = tensor
        for node in self.order:
            for seen in sights(node, saved[node], tensors):
                self._note(node, seen)

    def _look_at_roots(self, roots: Sequence[torch.Tensor | GradientEdge]) -> None:
        for root in roots:
            seen = sight(root, "", "what backward was called on") if isinstance(root, torch.Tensor) else None
            if seen is not None and seen.producer is not None:
                self._roots.add((seen.producer, seen.output))
                self._values.setdefault((seen.producer, seen.output), (seen.value, seen.label))
                self.bad_root = self.bad_root or not seen.value.sound

    def _note(self, holder: Node, seen: Sight) -> None:
        if seen.producer is not None:
            self._values.setdefault((seen.producer, seen.output), (seen.value, seen.label))
        elif seen.name == "variable":
            self._values[self._key[holder], 0] = seen.value, seen.label
        elif seen.trainable:
            pass  # a leaf, which has a node of its own
        elif _compat.is_of_torch(holder) and seen.name in rules.INPUTS:
            self._constants[holder].append(seen)
        else:
            # A Function may save constants, whose infinities are there on purpose.
            value = dataclasses.replace(seen.value, on_purpose=not _compat.is_of_torch(holder))
            self._own[holder].append(dataclasses.replace(seen, value=value))

    # --- What follows ---

    def _inputs(self, node: Node) -> list[Value | None]:
        """What came to ``node`` by the edges of the graph; None for what isn't known."""
        keys = ((self._key[source], output) for source, output in node.next_functions if source is not None)
        return [self._values[key][0] if key in self._values else None for key in keys]

    def _hides_inputs(self, node: Node) -> bool:
        return rules.hides_inputs(node, len(self._constants[node]))

    def _follow(self, node: Node) -> None:
        """Concludes from what a node was given to its results."""
        inputs = self._inputs(node)
        constants = [dataclasses.replace(seen.value, on_purpose=True) for seen in self._constants[node]]
        given = [value for value in [*inputs, *constants] if value is not None]
        results = _compat.results_of(node)
        sound = None not in inputs and all(value.sound for value in given)
        for output, (_, dtype) in enumerate(results):
            key = self._key[node], output
            if key in self._values and (None not in inputs or key not in self._roots):
                self._values[key] = self._with_purpose(node, given, *self._values[key])
            elif key not in self._values and sound and dtype.is_floating_point:
                limit = torch.finfo(dtype).max
                value = rules.derive(node, given, self._hides_inputs(node), self._size_of_inputs(node), limit)
                if value is not None:
                    self._values[key] = value, ""

    def _with_purpose(self, node: Node, given: list[Value], value: Value, label: str) -> tuple[Value, str]:
        """Infinities that an operator can only have been given, as a mask is, are there on purpose."""
        if value.infs and not value.nans and rules.only_moves(node) and all(each.sound for each in given):
            masked = any(each.infs for each in given) or self._hides_inputs(node)
            return dataclasses.replace(value, on_purpose=masked), label
        return value, label

    def _size_of_inputs(self, node: Node) -> int:
        sizes = [
            results[output][0]
            for source, output in node.next_functions
            if source is not None and output < len(results := _compat.results_of(source))
        ]
        return max(sizes, default=1)

    def _conclude_inputs(self, node: Node) -> None:
        """Concludes from finite results to what a node was given."""
        results = _compat.results_of(node)
        values = [self._values.get((self._key[node], output)) for output in range(len(results))]
        finite = all(value is not None and value[0].finite for value in values)
        if results and finite and all(size for size, _ in results) and rules.passes_on(node):
            for source, output in node.next_functions:
                if source is not None:
                    self._values.setdefault((self._key[source], output), (Value(), ""))
        elif len(results) == 1 and values[0] is not None and not values[0][0].sound:
            self._conclude_bad_input(node, *values[0])

    def _conclude_bad_input(self, node: Node, value: Value, label: str) -> None:
        """Concludes from bad results to the only input that they can come from, if there is one."""
        sources = [(source, output) for source, output in node.next_functions if source is not None]
        if len(sources) != 1 or self._hides_inputs(node):
            return
        ((source, output),) = sources
        given = _compat.results_of(source)[output : output + 1]
        narrows = not given or not _holds(_compat.results_of(node)[0][1], given[0][1])
        if rules.came_with(node, value.nans, narrows):
            self._values.setdefault((self._key[source], output), (value, label))

    # --- What is wrong ---

    def is_sound(self, node: Node) -> bool:
        """Whether all that a node was given, saved and returned in forward is known, and finite."""
        outputs = [self._values.get((self._key[node], output)) for output in range(len(_compat.results_of(node)))]
        inputs = self._inputs(node)
        return (
            bool(outputs)
            and all(value is not None and value.finite for value in inputs)
            and all(known is not None and known[0].finite for known in outputs)
            and not any(seen.value.nans for seen in self._constants[node])
            and all(seen.value.sound for seen in self._own[node])
        )

    def masked(self, node: Node) -> Finding | None:
        """Infinities that are there on purpose in what a node was given, if that is all that is known."""
        for value in self._inputs(node):
            if value is not None and value.infs:
                return Finding(node, False, False, f"what {name_of(node)} was given", value)
        return None

    def first(self, nodes: Iterable[Node]) -> Finding | None:
        """The first of ``nodes`` where values are exactly known to have become bad; else the first of the others."""
        found = [finding for finding in map(self._finding, nodes) if finding is not None]
        return next((finding for finding in found if finding.exact), found[0] if found else None)

    def _finding(self, node: Node) -> Finding | None:
        for seen in self._constants[node]:
            if seen.value.nans:
                return Finding(node, True, False, seen.label, seen.value)
        bad = self._bad_results(node)
        inputs = self._inputs(node)
        if bad is None or any(value is not None and not value.sound for value in inputs):
            return None  # all right, or wrong before
        value, label, by_itself = bad
        if _compat.variable_of(node) is not None:
            return Finding(node, True, False, label, value)
        if None in inputs:
            return Finding(node, False, False, label, value)
        if value.nans and rules.only_moves(node) and all(each is not None and each.finite for each in inputs):
            # They came with something that is no edge of the graph.
            return Finding(node, self._hides_inputs(node), False, label, value)
        if not by_itself and any(source is None for source, _ in node.next_functions):
            return Finding(node, False, False, label, value)
        return Finding(node, True, True, label, value)

    def _bad_results(self, node: Node) -> tuple[Value, str, bool] | None:
        """What is wrong with a node's results, and whether it has certainly given it, and not been given it."""
        for output in range(len(_compat.results_of(node)) or 1):
            known = self._values.get((self._key[node], output))
            if known is not None and not known[0].sound:
                return *known, True
        for seen in self._own[node]:
            if not seen.value.sound:
                return seen.value, seen.label, _compat.is_of_torch(node)
        return None
