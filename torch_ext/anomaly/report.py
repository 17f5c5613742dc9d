"""What is known of a backward that failed in anomaly mode: as notes on its exception, and as data."""

import dataclasses
import json
import logging
import os
import re
import threading
import traceback
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import GradientEdge, Node

from . import _compat
from ._anomaly_graph import around, first_non_finite, name_of, path_to, reachable
from ._anomaly_picture import draw

_log = logging.getLogger(__name__)

_TORCH = os.path.dirname(torch.__file__) + os.sep
_ENTRY = re.compile(r'^ *File "(?P<file>.*)", line (?P<line>\d+), in (?P<function>.*)\n(?: {4,}(?P<source>.*))?', re.M)
_NAN = re.compile(r"^Function '.*' returned nan values in its (\d+)th output\.")
_INVALID = re.compile(r"^Function .* returned an invalid gradient at index (\d+) ")

# A picture of more says less.
_PICTURE_DISTANCE = 3
_PICTURE_NODES = 24


@dataclass(frozen=True)
class Frame:
    """A call on the stack: file, line number, function and source line."""

    file: str
    line: int
    function: str
    source: str


@dataclass(frozen=True)
class Origin:
    """A node's name and the forward call that made it, outermost frame first.

    There are no frames where the node was made outside anomaly mode.
    """

    name: str
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class Birth(Origin):
    """The first node known to have produced (or, of its inputs, saved) values that are not finite.

    Args:
        produced: whether it produced them; if not, it was given them from outside of the graph.
        tensor: where they were seen.
        nans, infs: how many values of that tensor are NaN and infinite.
    """

    produced: bool
    tensor: str
    nans: int
    infs: int


@dataclass(frozen=True)
class Neighbour:
    """A node near the failing one.

    Args:
        name: of the node.
        place: the innermost frame outside torch of the forward call that made it, where known.
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
class Report:
    """A backward that failed in anomaly mode. Names, numbers and source lines: it keeps no graph alive.

    Args:
        node_name: the node that failed; where its backward ran a backward of its own, the node in that.
        found: "nan", or "exception" for everything else that is raised.
        output_index: which of the node's gradients is NaN or invalid, counted from 0; None where another thing failed.
        error: type and text of the exception.
        frames: the forward call that made the node, outermost first; none where it was made outside anomaly mode.
        parents: in double backward the node whose backward made the failing one, then that one's, and so on.
        enclosing: the nodes whose backward ran the backward that failed (as of a checkpoint), innermost first.
        path: names of the nodes from what backward was called on to the failing one; empty where there is no way.
        born: the first node in forward whose values are known not to be finite; looked for where ``found`` is "nan".
        neighbours, edges: the graph around the node.
    """

    node_name: str
    found: str
    output_index: int | None
    error: str
    frames: tuple[Frame, ...]
    parents: tuple[Origin, ...] = ()
    enclosing: tuple[Origin, ...] = ()
    path: tuple[str, ...] = ()
    born: Birth | None = None
    neighbours: tuple[Neighbour, ...] = ()
    edges: tuple[Edge, ...] = ()

    def to_json(self, indent: int | None = 2) -> str:
        """The report as the text of a JSON object."""
        return json.dumps(dataclasses.asdict(self), indent=indent)

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Write a picture of the graph around the failing node, which is marked.

        Args:
            path: the file to write; its suffix names the format, one that Graphviz knows (.svg, .png, .pdf ...).
                With .dot or .gv the graph is written in Graphviz's language, for which it need not be installed.

        Raises:
            RuntimeError: Graphviz is not installed.
            ValueError: Graphviz can't write that format, or the path has no suffix.
            OSError: the file can't be written.
        """
        draw(self, path)


@dataclass(frozen=True)
class _Failure:
    """What the failing node itself tells."""

    origin: Origin
    parents: tuple[Origin, ...]
    thread: int

    def notes(self) -> list[str]:
        notes = [_note(self.origin, "whose backward failed")]
        child = self.origin
        for parent in self.parents:
            notes.append(_note(parent, f"whose backward made {child.name}"))
            child = parent
        return notes


# By the id of the node's metadata, from the failure to the exception's way out of backward: an id holds no graph.
_unfinished: dict[int, _Failure] = {}
_lock = threading.RLock()  # a finaliser may fail a backward while it is held
# One a thread is the rule. A backward that C++ code started ends out of sight, and its failure stays.
_MOST_UNFINISHED = 16
_last: Report | None = None


def last_report() -> Report | None:
    """The report on the backward that failed most recently, in any thread; None before the first."""
    return _last


def record(metadata: dict[str, Any], node_name: str, exc: BaseException | None) -> None:
    """Note that a node's backward has failed.

    Args:
        metadata: the node's.
        node_name: its name.
        exc: what the backward raised, which is given its notes; None where the engine has yet to raise.
    """
    failure = _Failure(Origin(node_name, _frames(metadata)), _parents(metadata), threading.get_ident())
    with _lock:
        _unfinished[id(metadata)] = failure
        while len(_unfinished) > _MOST_UNFINISHED:
            del _unfinished[next(iter(_unfinished))]
    # What C++ code has raised may still be the text that an exception is to be made of.
    if isinstance(exc, BaseException):
        _attach(exc, failure.notes())


def finish(exc: BaseException, roots: tuple[torch.Tensor | GradientEdge, ...]) -> None:
    """Complete the report as ``exc`` leaves the backward that was called on ``roots``. Raises nothing."""
    global _last
    try:
        graph = reachable(roots)
        node, failure = _take_failure(graph)
        if failure is not None:
            _last = _complete(failure, exc, node, graph, roots)
    except Exception:  # the failure of a report must not hide the failure it is about
        _log.exception("torch_ext could not report on %r", exc)


def _take_failure(graph: dict[Node, Node | None]) -> tuple[Node | None, _Failure | None]:
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


def _complete(
    failure: _Failure,
    exc: BaseException,
    node: Node | None,
    graph: dict[Node, Node | None],
    roots: tuple[torch.Tensor | GradientEdge, ...],
) -> Report:
    _attach(exc, failure.notes())
    inner = vars(exc).get("_torch_ext_report")
    if inner is not None:  # exc comes from a backward within the node's own
        report = dataclasses.replace(inner, enclosing=(*inner.enclosing, failure.origin))
    else:
        report = _describe(failure, str(exc), f"{type(exc).__name__}: {exc}")
        if node is not None:
            report = _locate(report, node, graph, roots)
        if report.born is not None:
            _attach(exc, [_birth_note(report.born)])
    vars(exc)["_torch_ext_report"] = report
    return report


def _describe(failure: _Failure, message: str, error: str) -> Report:
    nan = _NAN.match(message)
    index = nan or _INVALID.match(message)
    return Report(
        node_name=failure.origin.name,
        found="nan" if nan else "exception",
        output_index=int(index[1]) if index else None,
        error=error,
        frames=failure.origin.frames,
        parents=failure.parents,
    )


def _locate(
    report: Report,
    node: Node,
    graph: dict[Node, Node | None],
    roots: tuple[torch.Tensor | GradientEdge, ...],
) -> Report:
    """``report`` with what the graph tells."""
    path = path_to(node, graph)
    seen = first_non_finite(path, roots) if report.found == "nan" else None
    born = seen and Birth(
        name_of(seen.node), _frames(seen.node.metadata), seen.produced, seen.tensor, seen.nans, seen.infs
    )
    nodes = around(node, graph, _PICTURE_DISTANCE, _PICTURE_NODES)
    number = {each: index for index, each in enumerate(nodes)}
    return dataclasses.replace(
        report,
        path=tuple(name_of(each) for each in path),
        born=born,
        neighbours=tuple(
            Neighbour(name_of(each), _place(each), failing=each is node, born=bool(seen) and each is seen.node)
            for each in nodes
        ),
        edges=tuple(
            Edge(number[each], number[following], output)
            for each in nodes
            for output, (following, _) in enumerate(each.next_functions)
            if following in number
        ),
    )


# --- Reading metadata -----------------------------------------------------------------------------


def _frames(metadata: dict[str, Any]) -> tuple[Frame, ...]:
    stack = metadata.get("traceback_", ())
    if hasattr(stack, "frames"):
        return tuple(Frame(*frame) for frame in stack.frames())
    # torch's own list of strings, or what torch.fx.traceback has preserved.
    return tuple(
        Frame(entry["file"], int(entry["line"]), entry["function"], entry["source"] or "")
        for entry in _ENTRY.finditer("".join(stack))
    )


def _parents(metadata: dict[str, Any]) -> tuple[Origin, ...]:
    parents = []
    parent = metadata.get("parent_")
    while parent is not None and _compat.has_node(parent):
        parents.append(Origin(name_of(parent), _frames(parent.metadata)))
        parent = parent.metadata.get("parent_")
    return tuple(parents)


def _place(node: Node) -> Frame | None:
    frames = _frames(node.metadata)
    return next((frame for frame in reversed(frames) if not frame.file.startswith(_TORCH)), None)


# --- Notes ----------------------------------------------------------------------------------------


def _note(origin: Origin, role: str) -> str:
    if not origin.frames:
        return f"The forward call that made {origin.name}, {role}, is not known: it ran outside anomaly mode."
    return f"Forward call that made {origin.name}, {role} (most recent call last):\n{_text(origin.frames)}"


def _birth_note(born: Birth) -> str:
    values = f"The first values known not to be finite ({born.nans} NaN, {born.infs} infinite: {born.tensor})"
    verb = "were produced by" if born.produced else "were given to"
    if not born.frames:
        return f"{values} {verb} the forward of {born.name}."
    return f"{values} {verb} this forward call, of {born.name} (most recent call last):\n{_text(born.frames)}"


def _text(frames: tuple[Frame, ...]) -> str:
    lines = traceback.format_list([dataclasses.astuple(frame) for frame in frames])
    return "".join(lines).rstrip("\n")


def _attach(exc: BaseException, notes: list[str]) -> None:
    """Add notes that ``exc`` does not have yet.

    Not by add_note: Python 3.10 has none, and some exceptions forbid attributes to be set.
    """
    present = vars(exc).setdefault("__notes__", [])
    present.extend(note for note in notes if note not in present)
