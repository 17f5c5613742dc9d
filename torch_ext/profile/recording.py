# SPDX-License-Identifier: BSD-3-Clause
"""Timing the calls of Functions while a program runs."""

import inspect
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from .. import _C
from . import stand_in
from .facts import FunctionTimes, Report, Times

# Of so many Functions it is measured what stock torch would have cost: a hundredth of a second each.
_MEASURED = 50
_PARTS = (0.05, 0.25, 0.5, 0.75, 0.95)


# As _C.timed_calls() gives them.
_Tally = tuple[int, int, int, int, list[tuple[int, int]]]


@dataclass
class _Row:
    """A Function that has been called: a class, or several that a function has made one after the other."""

    name: str
    module: str
    file: str
    line: int
    shapes: dict[bool, stand_in.Shape] = field(default_factory=dict)


class Record:
    """Times the calls of Functions; what :func:`record` returns.

    A context manager, and ``start()`` and ``stop()``. ``str()`` of it is a table.

    Args:
        stock: as :func:`record` takes it.

    Attributes:
        report: what was recorded, a :class:`Report`; None before ``stop()``.
    """

    def __init__(self, stock: bool = True) -> None:
        self.report: Report | None = None
        self._stock = stock
        self._number: int | None = None
        self._begin()

    def _begin(self) -> None:
        self._rows: list[_Row] = []
        self._indices: dict[tuple[str, str, str, int], int] = {}
        self._since = perf_counter()

    def start(self) -> "Record":
        """Begins to time calls, on all threads.

        Returns:
            Itself.

        Raises:
            RuntimeError: it does so already.
        """
        if self._number is not None:
            raise RuntimeError("this record runs already: take another record(), or stop() it first")
        self._begin()
        self._number = _C.start_timing(self._on_call)
        return self

    def stop(self) -> None:
        """Times calls no longer, and makes the report. Does nothing if it has not been started."""
        if self._number is not None:
            number, self._number = self._number, None
            seconds = perf_counter() - self._since
            try:
                tallies = _C.timed_calls(number)
            finally:
                _C.stop_timing(number)
            self.report = self._make(seconds, tallies, self._stock)

    def start_anew(self) -> None:
        """Forgets what was recorded so far. Does nothing if it doesn't run."""
        if self._number is not None:
            _C.stop_timing(self._number)
            self._number = None
            self.start()

    def __enter__(self) -> "Record":
        return self.start()

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def to_json(self, indent: int | None = 2) -> str:
        """The report as the text of a JSON object with indents of ``indent`` spaces: see :meth:`Report.to_json`."""
        return self._now().to_json(indent)

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Writes the report as a page to ``path``: see :meth:`Report.to_html`."""
        self._now().to_html(path)

    def __str__(self) -> str:
        return str(self._now())

    def __rich__(self) -> object:
        return self._now()

    def _now(self) -> Report:
        """The report; while it runs, one of what has run so far, without what stock torch would have cost."""
        if self._number is not None:
            return self._make(perf_counter() - self._since, _C.timed_calls(self._number), stock=False)
        return self.report or Report(0.0, os.getpid(), _program(), ())

    def _on_call(self, cls: Any, args: Any, result: Any, saved: int, recorded: bool) -> int:
        """The row of a class; C++ asks for it at its first calls: see ``_C.start_timing``."""
        key = (cls.__qualname__, cls.__module__, *_place(cls))
        index = self._indices.get(key)
        if index is None:
            index = self._indices[key] = len(self._rows)
            self._rows.append(_Row(*key))
        if args is not None and self._stock:
            shapes = self._rows[index].shapes
            if recorded not in shapes:
                shapes[recorded] = stand_in.shape_of(cls, args, result, saved, recorded)
        return index

    def _make(self, seconds: float, tallies: Sequence[tuple[_Tally, ...]], stock: bool) -> Report:
        ordered = sorted(zip(self._rows, tallies, strict=False), key=_total, reverse=True)
        functions = [_function(row, ways, stock and n < _MEASURED) for n, (row, ways) in enumerate(ordered)]
        return Report(seconds, os.getpid(), _program(), tuple(functions))


def record(*, stock: bool = True) -> "Record":
    """Times the calls of custom Functions that run on torch_ext.

    Times are those that pass on the CPU until a call returns; what a GPU does after that is in none of them. A call
    that raises is not counted, nor is one in code that torch.compile has compiled.

    Args:
        stock: whether to measure at the end what stock torch would have cost: by calls of a stand-in that has as many
            inputs, outputs and saved tensors and computes nothing, about a hundredth of a second for each Function.

    Returns:
        A context manager that also has ``start()`` and ``stop()``, and after them ``report``.
    """
    return Record(stock)


def _place(cls: Any) -> tuple[str, int]:
    code = getattr(inspect.unwrap(cls.forward), "__code__", None)
    return ("", 0) if code is None else (code.co_filename, code.co_firstlineno)


def _program() -> str:
    return " ".join([os.path.basename(sys.argv[0]) or "python", *sys.argv[1:]]) if sys.argv else "python"


def _function(row: _Row, ways: tuple[_Tally, ...], stock: bool) -> FunctionTimes:
    plain, recorded, backward = ways
    extras = {kind: stand_in.measure(shape) for kind, shape in row.shapes.items()} if stock else {}
    of_forward = _extra([(plain, extras.get(False)), (recorded, extras.get(True))], "forward")
    return FunctionTimes(
        row.name,
        row.module,
        row.file,
        row.line,
        _times([plain, recorded], of_forward),
        _times([backward], _extra([(backward, extras.get(True))], "backward")),
        recorded[0],
        recorded[3],
    )


def _total(row: tuple[_Row, tuple[_Tally, ...]]) -> int:
    return sum(way[1] for way in row[1])


def _extra(parts: list[tuple[_Tally, stand_in.Extra | None]], way: str) -> float | None:
    counted = [(tally[0], extra) for tally, extra in parts if tally[0]]
    if any(extra is None for _, extra in counted):
        return None
    return float(sum(calls * getattr(extra, way) for calls, extra in counted))


def _times(tallies: list[_Tally], stock_extra: float | None) -> Times:
    calls = sum(each[0] for each in tallies)
    total, user = sum(each[1] for each in tallies), sum(each[2] for each in tallies)
    # A sample stands for all calls of its kind.
    weighted = [(each[0] / len(each[4]), *times) for each in tallies for times in each[4]]
    totals = _quantiles([(weight, all_of_it) for weight, all_of_it, _ in weighted])
    overheads = _quantiles([(weight, all_of_it - own) for weight, all_of_it, own in weighted])
    return Times(calls, total / 1e9, user / 1e9, totals[2], overheads[2], totals, stock_extra)


def _quantiles(weighted: list[tuple[float, int]]) -> tuple[float, ...]:
    """In seconds, of nanoseconds with weights; zeros if there are none."""
    ordered = sorted(weighted, key=lambda each: each[1])
    whole = sum(weight for weight, _ in ordered)
    found: list[float] = []
    passed = 0.0
    for weight, value in ordered:
        passed += weight
        while len(found) < len(_PARTS) and passed >= _PARTS[len(found)] * whole:
            found.append(value / 1e9)
    return tuple(found) if found else (0.0,) * len(_PARTS)
