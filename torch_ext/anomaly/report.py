# SPDX-License-Identifier: BSD-3-Clause
"""What is known about a backward that failed in anomaly mode: as notes on its exception, and as data."""

import dataclasses
import json
import os
import re
import threading
import traceback
import uuid
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch.autograd.graph import GradientEdge, Node

from . import behind, birth, changes, cuts, freed, given, picture
from .facts import Argument, Birth, Cut, Edge, Failure, Frame, Freed, Modified, Neighbour, Origin
from .graph import frames_of, metadata_of, name_of, origin_of, parents_of, path_to, surroundings
from .places import with_line

# What the engine says of NaN, and the checks in csrc/anomaly/checks.cpp of the rest.
_BAD = re.compile(r"^Function '.*' (returned|was given|left) (nan|infinite) values in its (?:(\d+)th)?")
_SAVED = re.compile(r"^Function '.*' needs a saved tensor whose values have changed, though its version has not")
_IN_BACKWARD = ("nan", "infinite", "loss")
_INVALID = re.compile(r"^Function .* returned an invalid gradient at index (\d+) ")


@dataclass(frozen=True)
class Report:
    """A backward that failed in anomaly mode: names, numbers and source lines, which keep no graph alive.

    Args:
        node_name: the node that failed, "" if none has; if its backward ran a backward of its own, the node in that.
        found: "nan"; "infinite", with ``check_inf``; "forward", if it was found in what the node's forward call
            returned, with ``check_nan="forward"``; "saved", with ``check_saved``; "loss", if backward was called on or
            with what was so already, with ``check_loss``; "no_grad", if it was called on what doesn't require grad; or
            "exception" for everything else that is raised.
        output_index: which of the node's gradients is NaN, infinite or invalid, counted from 0; None if something else
            failed, as when the node was given or left such values. If ``found`` is "forward", which of the results.
        error: type and text of the exception.
        frames: the forward call that created the node, outermost first; none if it was created outside anomaly mode.
        parents: in double backward the node whose backward created the failing one, then that one's, and so on.
        enclosing: the nodes whose backward ran the backward that failed (as a checkpoint does), innermost first.
        path: names of the nodes from what backward was called on to the failing one; empty if no path is known.
        forward: whether values were finite in forward: "not finite", and ``born`` says where; "finite", so that the
            values arose in backward; "unknown". It is looked for unless ``found`` is "exception".
        born: the forward call in which values were first not finite, or what is known of it.
        neighbours, edges: the graph around the node.
        modified: if a tensor that the node needs was changed in place: which, by what, and in which lines.
        freed: if an earlier backward has freed the node: where that was called, and the way to the node.
        arguments: what the forward call was given, if ``found`` is "forward".
        cuts: if backward was called on what doesn't require grad: where its values left the graph.
    """

    node_name: str
    found: str
    output_index: int | None
    error: str
    frames: tuple[Frame, ...]
    parents: tuple[Origin, ...] = ()
    enclosing: tuple[Origin, ...] = ()
    path: tuple[str, ...] = ()
    forward: str = birth.UNKNOWN
    born: Birth | None = None
    neighbours: tuple[Neighbour, ...] = ()
    edges: tuple[Edge, ...] = ()
    modified: Modified | None = None
    freed: Freed | None = None
    cuts: tuple[Cut, ...] = ()
    arguments: tuple[Argument, ...] = ()

    def to_json(self, indent: int | None = 2) -> str:
        """The report as the text of a JSON object, indented by ``indent`` spaces; None for one line."""
        return json.dumps(dataclasses.asdict(self), indent=indent)

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Writes a picture of the graph around the failing node, which is marked.

        Args:
            path: the file to write; its suffix names the format, one that Graphviz knows (.svg, .png, .pdf ...).
                With .dot or .gv the graph is written in Graphviz's language, and it need not be installed.

        Raises:
            RuntimeError: Graphviz is not installed.
            ValueError: Graphviz can't write that format, or the path has no suffix.
            OSError: the file can't be written.
        """
        dot = picture.to_dot(self.error, self.found, self.output_index, self.neighbours, self.edges, self._remarks())
        picture.draw(dot, path)

    def _remarks(self) -> list[str]:
        """What a picture says besides at the failing node."""
        remarks = []
        if self.modified is not None:
            for change in self.modified.changes[:_MOST_REMARKS]:
                operator = change.operator or "something unseen"
                remarks.append(with_line(f"{self.modified.saved} was changed by {operator}", change.frames))
        if self.freed is not None and self.freed.backward:
            remarks.append(with_line("was freed by the backward that was called", self.freed.backward))
        return remarks


# More make a picture unreadable.
_MOST_REMARKS = 4

_last: Report | None = None

# The reports on recent failures, by what their exceptions carry: plain text, since an exception may travel to a
# process without torch_ext. A backward's exception may leave another backward that ran it, which completes the report.
_KEY = "_torch_ext_report"
_recent: dict[str, Report] = {}
_MOST_RECENT = 64
_lock = threading.RLock()  # a backward may fail in a finaliser that runs while the lock is held


def last_report() -> Report | None:
    """The report on the backward that failed most recently, in any thread; None before the first."""
    return _last


# --- Completing a report --------------------------------------------------------------------------------


def complete(
    failure: Failure,
    exc: BaseException,
    node: Node | None,
    graph: dict[Node, Node | None],
    roots: tuple[torch.Tensor | GradientEdge, ...],
    gradients: tuple[torch.Tensor | None, ...],
    late: birth.Late,
) -> None:
    """Reports on ``failure`` as ``exc``, which gets its notes, leaves the backward called on ``roots``.

    ``graph`` has what a backward from the roots can run; ``node`` is the failing one, None if it isn't there. ``late``
    is what nodes had saved that ran after it.
    """
    global _last
    attach_notes(exc, failure)
    inner = _recent.get(vars(exc).get(_KEY, ""))
    if inner is not None:  # exc comes from a backward that the node's own ran
        report = dataclasses.replace(inner, enclosing=(*inner.enclosing, failure.origin))
        if inner.found in _IN_BACKWARD and (inner.born is None or not inner.born.produced):
            # What came from outside the inner graph may have arisen in this one.
            outer, _ = _find_birth(report, failure, node, graph, roots, gradients, late)
            if outer.born is not None and outer.born.after is None:
                report = outer
                _replace_note(exc, _birth_note(inner), _birth_note(report))
    else:
        report = _describe(failure, exc)
        if node is not None:
            report = _explain(report, exc, node, graph)
        found = None
        if report.found in _IN_BACKWARD:
            report, found = _find_birth(report, failure, node, graph, roots, gradients, late)
            _attach(exc, [_birth_note(report)])
        if node is not None:
            report = _locate(report, node, graph, found)
    _last = report
    _remember(exc, report)


def explain_refusal(exc: BaseException, roots: tuple[torch.Tensor | GradientEdge, ...]) -> None:
    """Reports on ``exc`` if torch raised it because one of the roots doesn't require grad."""
    global _last
    found = cuts.behind(str(exc), roots)
    if found is None:
        return
    behind, root = found
    _attach(exc, [cuts.note(root, behind)])
    _last = Report(
        node_name="",
        found="no_grad",
        output_index=None,
        error=f"{type(exc).__name__}: {exc}",
        frames=(),
        cuts=behind,
    )
    _remember(exc, _last)


def refuse(
    exc: BaseException,
    node: Node,
    graph: dict[Node, Node | None],
    what: str,
    forward: str,
    found: birth.Finding | None,
) -> NoReturn:
    """Raises ``exc``, with a report, though no node has failed: what is wrong belongs to ``node``."""
    global _last
    report = Report(
        node_name=name_of(node),
        found=what,
        output_index=None,
        error=f"{type(exc).__name__}: {exc}",
        frames=frames_of(metadata_of(node)),
        parents=parents_of(metadata_of(node)),
        forward=forward,
        born=None if found is None else _birth(found),
    )
    _attach(exc, [_birth_note(report)])
    _last = _locate(report, node, graph, found.node if found is not None and found.exact else None)
    _remember(exc, _last)
    raise exc


def explain_result(
    exc: BaseException,
    found: birth.Finding,
    output: int,
    arguments: tuple[Argument, ...],
    graph: dict[Node, Node | None],
) -> None:
    """Reports on ``exc``, which is about output ``output`` of a forward call, which was given ``arguments``."""
    global _last
    origin = origin_of(found.node)
    report = Report(
        node_name=origin.name,
        found="forward",
        output_index=output,
        error=f"{type(exc).__name__}: {exc}",
        frames=origin.frames,
        parents=parents_of(metadata_of(found.node)),
        forward=birth.NOT_FINITE,
        born=_birth(found),
        arguments=arguments,
    )
    _attach(exc, [note for note in (given.note(origin.name, arguments), _birth_note(report)) if note])
    _last = _locate(report, found.node, graph, found.node if found.exact else None)
    _remember(exc, _last)


def _remember(exc: BaseException, report: Report) -> None:
    key = vars(exc).setdefault(_KEY, uuid.uuid4().hex)
    with _lock:
        _recent.pop(key, None)  # so that it counts as the newest
        _recent[key] = report
        while len(_recent) > _MOST_RECENT:
            del _recent[next(iter(_recent))]


def _describe(failure: Failure, exc: BaseException) -> Report:
    message = str(exc)
    bad, invalid = _BAD.match(message), _INVALID.match(message)
    index = bad[3] if bad and bad[1] == "returned" else invalid and invalid[1]
    return Report(
        node_name=failure.origin.name,
        found=bad[2] if bad else "saved" if _SAVED.match(message) else "exception",
        output_index=int(index) if index else None,
        error=f"{type(exc).__name__}: {message}",
        frames=failure.origin.frames,
        parents=failure.parents,
    )


def _explain(report: Report, exc: BaseException, node: Node, graph: dict[Node, Node | None]) -> Report:
    """``report`` with what is behind torch's own error, which ``exc`` gets as a note."""
    if report.found == "saved":
        behind_back = behind.explain(node)
        if behind_back is not None:
            _attach(exc, [behind.note(behind_back)])
        return dataclasses.replace(report, modified=behind_back)
    modified = changes.describe(node, str(exc))
    if modified is not None:
        _attach(exc, [changes.note(modified)])
    was_freed = freed.describe(node, graph, str(exc))
    if was_freed is not None:
        _attach(exc, [freed.note(was_freed)])
    return dataclasses.replace(report, modified=modified, freed=was_freed)


def _find_birth(
    report: Report,
    failure: Failure,
    node: Node | None,
    graph: dict[Node, Node | None],
    roots: tuple[torch.Tensor | GradientEdge, ...],
    gradients: tuple[torch.Tensor | None, ...],
    late: birth.Late,
) -> tuple[Report, Node | None]:
    """``report`` with where values were first not finite, and the node that this is certain of, if any."""
    if node is None:
        found = birth.bad_gradient(roots, gradients)
        forward = birth.UNKNOWN if found is None else birth.NOT_FINITE
    else:
        forward, found = birth.find(node, graph, roots, gradients, failure.kept, late)
    if found is None:
        return dataclasses.replace(report, forward=forward), None
    born = _birth(found, None if found.after is None else failure.origin)
    return dataclasses.replace(report, forward=forward, born=born), found.node if found.exact else None


def _birth(found: birth.Finding, after: Origin | None = None) -> Birth:
    node, value = found.node, found.value
    frames = frames_of(metadata_of(node))
    return Birth(name_of(node), frames, found.exact, found.produced, found.label, value.nans, value.infs, after)


def _locate(report: Report, node: Node, graph: dict[Node, Node | None], born: Node | None) -> Report:
    """``report``, completed from the graph."""
    neighbours, edges = surroundings(node, born, graph)
    path = tuple(name_of(each) for each in path_to(node, graph))
    return dataclasses.replace(report, path=path, neighbours=neighbours, edges=edges)


# --- Notes ----------------------------------------------------------------------------------------


def attach_notes(exc: BaseException, failure: Failure) -> None:
    """Adds notes to ``exc`` that say where the failing node and each of its parents were created."""
    child = failure.origin
    notes = [_note(child, "whose backward failed")]
    for parent in failure.parents:
        notes.append(_note(parent, f"whose backward made {child.name}"))
        child = parent
    _attach(exc, notes)


def _note(origin: Origin, role: str) -> str:
    if not origin.frames:
        return f"The forward call that made {origin.name}, {role}, is not known: it ran outside anomaly mode."
    return f"Forward call that made {origin.name}, {role} (most recent call last):\n{_text(origin.frames)}"


def _birth_note(report: Report) -> str:
    born = report.born
    if born is None:
        if report.forward == birth.FINITE:
            return (
                f"All values that {report.node_name} was given and returned in forward were finite: "
                f"{_WORDS[report.found]} arose in backward."
            )
        return "Whether all values were finite in forward is not known."
    seen = f"{born.nans} NaN, {born.infs} infinite"
    if born.tensor:
        seen += f": {born.tensor}"
    if not born.exact:
        after = "" if born.after is None else f", and after that of {born.after.name}"
        head = f"Values became not finite ({seen}) in the forward call of {born.name}, or before it{after}"
    elif born.produced:
        head = f"The first values known not to be finite ({seen}) were produced by the forward call of {born.name}"
    else:
        head = (
            f"The first values known not to be finite ({seen}) came from outside the graph, "
            f"and were given to {born.name}"
        )
    if not born.frames:
        return f"{head}, whose place is not known."
    return f"{head}, which was made here (most recent call last):\n{_text(born.frames)}"


_WORDS = {"nan": "the NaN", "infinite": "the infinite values"}


def _text(frames: tuple[Frame, ...]) -> str:
    lines = traceback.format_list([dataclasses.astuple(frame) for frame in frames])
    return "".join(lines).rstrip("\n")


def _replace_note(exc: BaseException, old: str, new: str) -> None:
    present = vars(exc).get("__notes__", [])
    present[:] = [new if note == old else note for note in present]


def _attach(exc: BaseException, notes: list[str]) -> None:
    """Adds notes that ``exc`` does not have yet.

    Not by add_note: Python 3.10 has none, and some exceptions don't let attributes be set.
    """
    present = vars(exc).setdefault("__notes__", [])
    present.extend(note for note in notes if note not in present)
