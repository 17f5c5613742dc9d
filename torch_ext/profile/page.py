# SPDX-License-Identifier: BSD-3-Clause
"""The report as a page: three plots as SVG, and the tables."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from html import escape

from .. import _page
from ..graph import text
from . import table
from .facts import FunctionTimes, Report, Times

# So many Functions are drawn; the tables have all.
_DRAWN = 20
_WIDTH, _LEFT, _RIGHT = 1040, 250, 960
_BAR, _GAP = 15, 9
_LETTER = 7.0  # the width of one, about

# Colours that the colour-blind can tell apart, on white and on black.
_STYLE = """
.plot { width: 100%; height: auto; margin-top: .4rem; } .plot text { font-size: 13px; fill: var(--ink); }
.plot .dim { fill: var(--dim); font-size: 12px; } .plot line { stroke: var(--rule); }
h2 { font-size: 1.1rem; margin: 1.8rem 0 .2rem; }
.a { fill: #0072B2; --key: #0072B2; } .b { fill: #7FBFE6; --key: #7FBFE6; }
.c { fill: #B35900; --key: #B35900; } .d { fill: #F2B56B; --key: #F2B56B; } .e { fill: #8A929C; --key: #8A929C; }
@media (prefers-color-scheme: dark) { .a { fill: #3D9BD9; --key: #3D9BD9; } .c { fill: #D9772B; --key: #D9772B; } }
.plot rect:hover { stroke: var(--hover); stroke-width: 1.5; } .plot .mark { stroke: var(--ink); stroke-width: 2; }
.key span { display: inline-block; margin-right: 1.2rem; }
.key i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em;
  background: var(--key); }
.wide { overflow-x: auto; }
"""

# The parts of a bar: their colours and names.
_PARTS = (
    ("a", "forward, your code"),
    ("b", "forward, the call itself"),
    ("c", "backward, your code"),
    ("d", "backward, the call itself"),
)
_SIDES = (("b", "forward on torch_ext"), ("d", "backward on torch_ext"), ("e", "on stock torch"))
_WAYS = (("a", "forward"), ("c", "backward"))


def write(report: Report, path: str | os.PathLike[str]) -> None:
    """Writes the page: see :meth:`Report.to_html`."""
    _page.write(path, f"Functions of {report.program}", _STYLE, _body(report))


def _body(report: Report) -> Iterator[str]:
    yield f"<h1>Functions of {escape(report.program)}</h1><p>{escape(table.head(report))}</p>"
    if not report.functions:
        return
    yield "<p>Times are those that pass on the CPU until a call returns.</p>"
    drawn = report.functions[:_DRAWN]
    left = len(report.functions) - len(drawn)
    if left:
        yield f"<p>Drawn are the {_DRAWN} with the most time; {text.plural(left, 'more')} in the tables.</p>"
    yield from _plot("Where their time went", _PARTS, _time_bars(report, drawn))
    yield from _plot("The cost of one call, apart from your code", _SIDES, _cost_bars(drawn))
    yield from _plot("How long a call takes: 5 to 95 % of the calls, and the median", _WAYS, _spans(drawn))
    for title, names, rows in table.tables(report):
        yield _table(title, names, rows)


def _plot(title: str, key: Sequence[tuple[str, str]], svg: str) -> Iterator[str]:
    entries = "".join(f'<span><i class="{colour}"></i>{escape(name)}</span>' for colour, name in key)
    yield f'<h2>{escape(title)}</h2><p class="key">{entries}</p>'
    yield svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)


def _table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(each)}</th>" for each in names)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<h2>{escape(title)}</h2><div class="wide"><table><tr>{head}</tr>{body}</table></div>'


# --- The plots --------------------------------------------------------------------------------------


def _time_bars(report: Report, drawn: Sequence[FunctionTimes]) -> str:
    most = max(each.total for each in drawn)
    rows = []
    for each in drawn:
        at, bars = 0.0, []
        ways = [(times.user, times.overhead_total) for times in (each.forward, each.backward)]
        for (colour, name), value in zip(_PARTS, [part for way in ways for part in way], strict=True):
            bars.append(_bar(at, at + value, 0, colour, f"{each.name}\n{name}: {table.seconds(value)}", _linear(most)))
            at += value
        share = f"{table.seconds(each.total)}, {each.total / report.seconds:.1%}"
        rows.append((each, [*bars, _words(share, _linear(most)(at) + 6, 0, "dim")]))
    return _svg(rows, 1, _linear(most), most)


def _cost_bars(drawn: Sequence[FunctionTimes]) -> str:
    ways = [times for each in drawn for times in (each.forward, each.backward) if times.calls]
    most = max([*(times.overhead for times in ways), *(times.stock_overhead or 0.0 for times in ways), 1e-9])
    place = _linear(most)
    rows = []
    for each in drawn:
        bars = []
        for line, (times, colour) in enumerate(((each.forward, "b"), (each.backward, "d"))):
            for half, (value, kind) in enumerate(((times.overhead, colour), (times.stock_overhead, "e"))):
                if times.calls and value is not None:
                    number = 2 * line + half
                    bars.append(_bar(0, value, number, kind, f"{each.name}\n{table.seconds(value)}", place))
                    bars.append(_words(table.seconds(value), place(max(value, 0)) + 6, number, "dim"))
        rows.append((each, bars))
    return _svg(rows, 4, place, most)


def _spans(drawn: Sequence[FunctionTimes]) -> str:
    ways = [times for each in drawn for times in (each.forward, each.backward) if times.calls]
    low, high = min(times.quantiles[0] for times in ways), max(times.quantiles[-1] for times in ways)
    place = _logarithmic(max(low, 1e-9), max(high, 2e-9))
    rows = []
    for each in drawn:
        bars = []
        for line, (times, (colour, name)) in enumerate(zip((each.forward, each.backward), _WAYS, strict=True)):
            if times.calls:
                bars += _span(times, line, colour, f"{each.name}, {name}", place)
        rows.append((each, bars))
    return _svg(rows, 2, place, None)


def _span(times: Times, line: int, colour: str, name: str, place: Callable[[float], float]) -> list[str]:
    first, _, median, _, last = (max(each, 1e-9) for each in times.quantiles)
    about = f"{name}\n{table.seconds(first)} to {table.seconds(last)}, median {table.seconds(median)}"
    at, y = place(median), line * (_BAR + 2)
    mark = f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{y}" y2="{y + _BAR}"/>'
    words = _words(f"{table.seconds(median)}", place(last) + 6, line, "dim")
    return [_bar(first, max(last, first * 1.02), line, colour, about, place), mark, words]


# --- Drawing ----------------------------------------------------------------------------------------

_Row = tuple[FunctionTimes, list[str]]


def _linear(most: float) -> Callable[[float], float]:
    # Room for the number behind the longest bar.
    return lambda value: _LEFT + (_RIGHT - _LEFT - 60) * value / most if most else float(_LEFT)


def _logarithmic(low: float, high: float) -> Callable[[float], float]:
    start, end = math.floor(math.log10(low)), math.log10(high * 1.2)
    return lambda value: _LEFT + (_RIGHT - _LEFT) * (math.log10(value) - start) / max(end - start, 0.1)


def _svg(rows: Sequence[_Row], lines: int, place: Callable[[float], float], most: float | None) -> str:
    """The rows, each so many lines high, over an axis: up to ``most``, or powers of ten if that is None."""
    step = lines * (_BAR + 2) + _GAP
    height = len(rows) * step + 24
    parts = []
    for value in _ticks(place, most):
        x, words = f"{place(value):.1f}", table.seconds(value)
        parts.append(f'<line x1="{x}" x2="{x}" y1="0" y2="{height - 20}"/>')
        parts.append(f'<text class="dim" text-anchor="middle" x="{x}" y="{height - 5}">{words}</text>')
    for number, (function, marks) in enumerate(rows):
        about = f"{function.name}\n{function.module}, {function.place}"
        name = text.cut(f"{function.name}  {function.place}", int((_LEFT - 20) / _LETTER))
        label = f'<text x="0" y="{lines * (_BAR + 2) / 2 + 4:.1f}"><title>{escape(about)}</title>{escape(name)}</text>'
        parts.append(f'<g transform="translate(0 {number * step + 4})">{label}{"".join(marks)}</g>')
    return f'<svg class="plot" viewBox="0 0 {_WIDTH} {height}">{"".join(parts)}</svg>'


def _ticks(place: Callable[[float], float], most: float | None) -> list[float]:
    if most is None:
        powers = [10.0**power for power in range(-9, 4)]
        return [each for each in powers if _LEFT <= place(each) <= _RIGHT]
    if most <= 0:
        return [0.0]
    rough = most / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return [step * number for number in range(int(most / step) + 1)]


def _bar(start: float, end: float, line: int, colour: str, about: str, place: Callable[[float], float]) -> str:
    x, width = place(start), max(place(end) - place(start), 0.0)
    box = f'x="{x:.1f}" y="{line * (_BAR + 2)}" width="{width:.1f}" height="{_BAR}"'
    return f'<rect class="{colour}" {box}><title>{escape(about)}</title></rect>'


def _words(words: str, x: float, line: int, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{line * (_BAR + 2) + _BAR - 3}">{escape(words)}</text>'
