# SPDX-License-Identifier: BSD-3-Clause
"""What C++ calls when a node's backward fails in anomaly mode.

A failure is handled in two steps. At the node, :func:`record` notes what is known there. As the exception leaves
backward, :func:`finish` finds the node in the graph and completes the report.
"""

import logging
import threading
from typing import Any

import torch
from torch.autograd.graph import GradientEdge, Node

from .. import _C
from . import given, report
from .behind import is_changed_by_torch  # noqa: F401 (C++ calls it)
from .birth import NOT_FINITE, UNKNOWN, bad_gradient, bad_root, find, find_before
from .facts import Failure, Origin, Sight, Value
from .graph import frames_of, name_of, node_of, parents_of, reachable
from .values import look, names_of_saved, sights

_log = logging.getLogger(__name__)

# By the id of the node's metadata, from the failure to the exception's way out of backward: an id holds no graph.
_unfinished: dict[int, Failure] = {}
_lock = threading.RLock()  # a backward may fail in a finaliser that runs while the lock is held
# There is one for each thread at most, as a rule; but if C++ code called backward, nobody sees its end.
_MOST_UNFINISHED = 16


def record(
    metadata: dict[str, Any],
    node_name: str,
    exc: BaseException | None,
    evidence: tuple[Node, tuple[torch.Tensor | None, ...]] | None,
) -> None:
    """Notes that a node's backward has failed.

    Args:
        metadata: the node's metadata.
        node_name: its name.
        exc: what the backward raised, which gets its notes here; None if the engine has yet to raise.
        evidence: the node and what it had saved, in the order of its attributes; None if that isn't known.
    """
    kept = () if evidence is None else _numbers_of(*evidence)
    failure = Failure(
        Origin(node_name, frames_of(metadata)), parents_of(metadata), threading.get_ident(), _C.backwards(), kept
    )
    with _lock:
        _unfinished[id(metadata)] = failure
        while len(_unfinished) > _MOST_UNFINISHED:
            del _unfinished[next(iter(_unfinished))]
    # An exception from C++ code may not exist yet, only its text.
    if isinstance(exc, BaseException):
        report.attach_notes(exc, failure)


def _numbers_of(node: Node, saved: tuple[torch.Tensor | None, ...]) -> tuple[Sight, ...]:
    """What can be seen in the tensors that ``node`` had saved: they themselves must not outlive the failure."""
    names = names_of_saved(node, len(saved))
    present = [(name, tensor) for name, tensor in zip(names, saved, strict=True) if tensor is not None]
    try:
        return tuple(sights(node, present, {}))
    except Exception:  # noqa: BLE001 (the failure of a report must not hide the failure that it is about)
        _log.exception("torch_ext could not look at what %s had saved", type(node).__name__)
        return ()


def finish(
    exc: BaseException,
    roots: tuple[torch.Tensor | GradientEdge, ...],
    gradients: tuple[torch.Tensor | None, ...],
    begun: int,
) -> None:
    """Completes the report as ``exc`` leaves a backward. Raises nothing.

    Args:
        exc: what leaves it.
        roots: what it was called on.
        gradients: what it was called with.
        begun: how many backwards had begun when this one had.
    """
    try:
        late = _late_evidence()
        graph = reachable(roots)
        node, failure = _take_failure(graph, begun)
        if failure is not None:
            report.complete(failure, exc, node, graph, roots, gradients, late)
        else:
            report.explain_refusal(exc, roots)
    except Exception:  # noqa: BLE001 (the failure of a report must not hide the failure that it is about)
        _log.exception("torch_ext could not report on %r", exc)


def _late_evidence() -> dict[Node, list[tuple[str, torch.Tensor]]]:
    """What nodes had saved that ran after one that a deferred check has named."""
    return {
        node: [
            (name, tensor)
            for name, tensor in zip(names_of_saved(node, len(saved)), saved, strict=True)
            if tensor is not None
        ]
        for node, saved in _C.take_late_evidence()
    }


def refuse_bad_roots(
    roots: tuple[torch.Tensor | GradientEdge, ...], gradients: tuple[torch.Tensor | None, ...], infinite: bool
) -> None:
    """Raises an error, with a report, if backward is about to run on what is NaN, or infinite if that counts."""
    wrong = bad_gradient(roots, gradients, infinite)
    if wrong is not None:
        message = (
            f"backward was called with a gradient that has {_fault(wrong.value)} values, for {name_of(wrong.node)}"
        )
        report.refuse(RuntimeError(message), wrong.node, reachable(roots), "loss", NOT_FINITE, wrong)
    bad = bad_root(roots, infinite)
    if bad is not None:
        node, value, output = bad
        message = f"backward was called on {_fault(value)} values, output {output} of {name_of(node)}"
        graph = reachable(roots)
        found = find_before(node, graph, roots)
        report.refuse(RuntimeError(message), node, graph, "loss", UNKNOWN if found is None else NOT_FINITE, found)


def refuse_bad_results(
    results: tuple[torch.Tensor | None, ...],
    inputs: tuple[torch.Tensor | GradientEdge, ...],
    roots: tuple[torch.Tensor | GradientEdge, ...],
    gradients: tuple[torch.Tensor | None, ...],
) -> None:
    """Raises an error, with a report, if the gradients that backward returns for ``inputs`` are not finite.

    The nodes that they come from gave nothing of the kind, so they became so as they were added.
    """
    for result, source in zip(results, inputs, strict=False):
        value = None if result is None else look(result)
        node = None if value is None or value.finite else node_of(source)
        if value is not None and node is not None:
            output = source.output_nr
            message = f"Function '{name_of(node)}' was given {_fault(value)} values in its {output}th input."
            graph = reachable(roots)
            forward, found = find(node, graph, roots, gradients, ())
            report.refuse(RuntimeError(message), node, graph, _fault(value), forward, found)


def refuse_result(
    node: Node,
    output: int,
    operator: str,
    result: torch.Tensor,
    fault: str,
    tensors: list[tuple[str, torch.Tensor, bool]],
) -> RuntimeError:
    """The error to raise, with a report, since a forward call returned values that are not finite.

    Args:
        node: the node that the call made.
        output: which of its outputs is not finite.
        operator: what was called, "" for a Function.
        result: the output.
        fault: "nan" or "infinite".
        tensors: what was given, each with its name and whether the call has changed it.
    """
    name = name_of(node)
    called = f"'{name}' ({operator})" if operator else f"'{name}'"
    message = f"The forward call of {called} returned {fault} values in its {output}th output."
    arguments = given.describe(tensors)
    found = given.find(node, look(result) or Value(), f"output {output} of {name}", arguments)
    exc = RuntimeError(message)
    report.explain_result(exc, found, output, arguments, reachable((GradientEdge(node, output),)))
    return exc


def _fault(value: Value) -> str:
    return "nan" if value.nans else "infinite"


def _take_failure(graph: dict[Node, Node | None], begun: int) -> tuple[Node | None, Failure | None]:
    """The failure recorded in ``graph`` and its node; else one of this thread, whose node no root leads to.

    What was recorded before this backward had begun is another's: of this thread one that C++ code called, whose end
    nobody has seen. It is forgotten.
    """
    if not _unfinished:
        return None, None
    with _lock:
        fresh = {key: failure for key, failure in _unfinished.items() if failure.begun >= begun}
        for key, failure in list(_unfinished.items()):
            if key not in fresh and failure.thread == threading.get_ident():
                del _unfinished[key]
    for node in graph if fresh else ():
        if (key := id(node.metadata)) in fresh:
            return node, _unfinished.pop(key, None)
    for key, failure in fresh.items():
        if failure.thread == threading.get_ident():
            return None, _unfinished.pop(key, None)
    return None, None
