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

from . import report
from .birth import bad_gradient, bad_root, find_before
from .facts import Failure, Origin, Sight
from .graph import frames_of, name_of, parents_of, reachable
from .values import names_of_saved, sights

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
    failure = Failure(Origin(node_name, frames_of(metadata)), parents_of(metadata), threading.get_ident(), kept)
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
) -> None:
    """Completes the report as ``exc`` leaves the backward called on ``roots`` and ``gradients``. Raises nothing."""
    try:
        graph = reachable(roots)
        node, failure = _take_failure(graph)
        if failure is not None:
            report.complete(failure, exc, node, graph, roots, gradients)
    except Exception:  # noqa: BLE001 (the failure of a report must not hide the failure that it is about)
        _log.exception("torch_ext could not report on %r", exc)


def refuse_bad_roots(
    roots: tuple[torch.Tensor | GradientEdge, ...], gradients: tuple[torch.Tensor | None, ...], infinite: bool
) -> None:
    """Raises an error, with a report, if backward is about to run on what is NaN, or infinite if that counts."""
    given = bad_gradient(roots, gradients, infinite)
    if given is not None:
        fault = "nan" if given.value.nans else "infinite"
        message = f"backward was called with a gradient that has {fault} values, for {name_of(given.node)}"
        report.refuse(RuntimeError(message), given.node, reachable(roots), given)
    bad = bad_root(roots, infinite)
    if bad is not None:
        node, value, output = bad
        fault = "nan" if value.nans else "infinite"
        message = f"backward was called on {fault} values, output {output} of {name_of(node)}"
        graph = reachable(roots)
        report.refuse(RuntimeError(message), node, graph, find_before(node, graph, roots))


def _take_failure(graph: dict[Node, Node | None]) -> tuple[Node | None, Failure | None]:
    """The failure recorded in ``graph`` and its node; else one of this thread, whose node no root leads to."""
    if _unfinished:
        for node in graph:
            key = id(node.metadata)
            with _lock:
                failure = _unfinished.pop(key, None)
            if failure is not None:
                return node, failure
        with _lock:
            for key, failure in list(_unfinished.items()):
                if failure.thread == threading.get_ident():
                    return None, _unfinished.pop(key)
    return None, None
