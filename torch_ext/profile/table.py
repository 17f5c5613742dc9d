# SPDX-License-Identifier: BSD-3-Clause
"""The report as tables in a terminal."""

import os
from collections.abc import Sequence
from typing import Any

from ..graph import text
from .facts import FunctionTimes, Report

_WIDTH = 80
# So many Functions are shown; the data has all.
_ROWS = 30
_CELL = 30

TIMES = ("calls", "forward", "total", "backward", "total", "share", "saved")
COSTS = ("forward", "stock", "backward", "stock", "total", "stock")


def seconds(value: float | None) -> str:
    """A time for people: "1.6 µs", "12 ms", "3.1 s"; "-" for one that isn't known."""
    if value is None:
        return "-"
    if value == 0:
        return "0 s"
    size = abs(value)
    unit, factor = ("s", 1.0) if size >= 0.9995 else ("ms", 1e3) if size >= 0.9995e-3 else ("µs", 1e6)
    places = 0 if size * factor >= 99.95 else 1 if size * factor >= 9.995 else 2
    return f"{value * factor:.{places}f} {unit}"


def times_row(function: FunctionTimes, report: Report) -> tuple[str, ...]:
    """The cells below TIMES."""
    forward, backward = function.forward, function.backward
    return (
        f"{forward.calls:,}",
        seconds(forward.median if forward.calls else None),
        seconds(forward.total),
        seconds(backward.median if backward.calls else None),
        seconds(backward.total),
        f"{function.total / report.seconds:.1%}",
        text.size(function.saved),
    )


def costs_row(function: FunctionTimes) -> tuple[str, ...]:
    """The cells below COSTS."""
    cells = []
    for times in (function.forward, function.backward):
        cells += [seconds(times.overhead), seconds(times.stock_overhead)] if times.calls else ["-", "-"]
    extra = function.stock_extra
    return (*cells, seconds(function.overhead), seconds(None if extra is None else function.overhead + extra))


def head(report: Report) -> str:
    """What it is about, in one line."""
    if not report.functions:
        return f"No custom Function ran on torch_ext in {seconds(report.seconds)}."
    count = text.plural(len(report.functions), "custom Function")
    return f"{count} in {seconds(report.seconds)}: process {report.process}, {report.program}"


TIMES_TITLE = "Time: medians of a call, and totals; bytes saved for backward"
COSTS_TITLE = "Of it the cost of the calls themselves: of one, and of all"
PLACES_TITLE = "Where they are"
PLACES = ("file", "module", "Function")

_Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]


def tables(report: Report, rows: int | None = None) -> list[_Table]:
    """Titles, heads and cells, of at most so many Functions."""
    shown = report.functions[:rows]
    return [
        (TIMES_TITLE, (*TIMES, "Function"), [(*times_row(each, report), each.name) for each in shown]),
        (COSTS_TITLE, (*COSTS, "Function"), [(*costs_row(each), each.name) for each in shown]),
        (PLACES_TITLE, PLACES, [(each.place, each.module, each.name) for each in shown]),
    ]


def _more(report: Report) -> list[str]:
    left = len(report.functions) - _ROWS
    return ["", f"{text.plural(left, 'more Function')}, with less time"] if left > 0 else []


def as_text(report: Report) -> str:
    """The report in plain text, at most 80 columns wide."""
    lines = [text.cut(head(report), _WIDTH)]
    if report.functions:
        for title, names, rows in tables(report, _ROWS):
            # A path or a name can be longer than the line.
            short = [tuple(_end_of(cell) for cell in row[:-1]) + row[-1:] for row in rows]
            lines += ["", title, *text.table(names, short, width=_WIDTH)]
    return "\n".join([*lines, *_more(report)])


def _end_of(cell: str) -> str:
    return cell if len(cell) <= _CELL else f"...{cell[3 - _CELL :]}"


def as_rich(report: Report) -> Any:
    """The report for a console of rich."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [Text(head(report))]
    if report.functions:
        parts += [part for each in tables(report, _ROWS) for part in (Text(), _rich_table(*each))]
    return Group(*parts, *map(Text, _more(report)))


def _rich_table(title: str, names: Sequence[str], rows: list[tuple[str, ...]]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for name in names[:-1]:
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column(names[-1], overflow="ellipsis", no_wrap=True)
    for row in rows:
        made.add_row(*map(Text, map(_end_of, row[:-1])), Text(row[-1]))
    return made


def print_to(stream: Any, report: Report) -> None:
    """Prints the report: in colours on a terminal, if rich is installed, and in plain text elsewhere."""
    if stream.isatty() and not os.environ.get("NO_COLOR"):
        try:
            from rich.console import Console
        except ImportError:
            pass
        else:
            Console(file=stream).print(report)
            return
    stream.write(f"{report}\n")
