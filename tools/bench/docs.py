# SPDX-License-Identifier: BSD-3-Clause
"""Measures everything and redraws the documentation: ``make bench-docs``, or ``python -m tools.bench.docs``.

A page has places for it, which begin with ``<!-- bench:NAME -->`` and end with ``<!-- /bench -->``; what is between
them is replaced. The outcomes are kept in build/bench, so that pages can be redrawn without measuring again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

from . import plots

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/performance.md")
# Each prints its outcome with --json, and takes --quick.
MODULES = {
    "calls": "tools.bench",
    "import_time": "tools.bench.import_time",
    "growth": "tools.bench.growth",
    "end_to_end": "tools.bench.end_to_end",
}
# The rows that the README shows, in words.
OVERHEADS = {
    "identity": "overhead: the input returned as is",
    "saved": "overhead: two saved tensors",
    "many": "overhead: 13 inputs, 2 outputs",
    "setup_context": "overhead: `setup_context`, a default argument",
    "chain": "forward and backward of a node in a chain of 50",
}
_PLACE = re.compile(r"(<!-- bench:(\w+) -->\n)(.*?)(<!-- /bench -->)", re.DOTALL)


# --- Measuring ------------------------------------------------------------------------------------


def measure(data, quick, against):
    """Run each of MODULES, and keep what it prints in the folder ``data``."""
    data.mkdir(parents=True, exist_ok=True)
    for name, module in MODULES.items():
        options = ["--json", *["--quick"] * quick]
        if name == "calls":
            options += [*["--instructions"] * (not quick), *(["--against", *against] if against else [])]
        print(f"python -m {module} {' '.join(options)}", file=sys.stderr)
        done = subprocess.run([sys.executable, "-m", module, *options], cwd=ROOT, stdout=subprocess.PIPE, check=True)
        outcome = {"date": str(datetime.date.today()), "cores": os.cpu_count(), **json.loads(done.stdout)}
        (data / f"{name}.json").write_text(json.dumps(outcome, indent=2) + "\n")


def read(data):
    """Return the outcomes that :func:`measure` has kept in ``data``, by name."""
    return {name: json.loads((data / f"{name}.json").read_text()) for name in MODULES}


# --- What the pages say ---------------------------------------------------------------------------


def table(headings, rows, numbers):
    """A table of Markdown; the last ``numbers`` columns are right-aligned."""
    lines = [headings, ["---"] * (len(headings) - numbers) + ["---:"] * numbers, *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def paragraph(text):
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False) + "\n"


def on_machine(outcome):
    """Where and when that was measured, for people."""
    machine = outcome["machine"]
    threads = "one thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    return (
        f"on one machine ({outcome['cores']} cores of {machine['cpu']}, torch {machine['torch']}, "
        f"Python {machine['python']}, {threads}), {outcome['date']}"
    )


def times(each, unit=1):
    """Reference, torch_ext and their ratio, as texts."""
    sides = [each[side] / unit for side in ("reference", "ours")]
    return [*(f"{side:.2f}" if side < 100 else f"{side:,.0f}" for side in sides), f"{each['ratio']:.2f}"]


def overheads(outcomes):
    rows = {row["name"]: row for row in outcomes["calls"]["rows"]}
    cells = [[words, *times(rows[name])] for name, words in OVERHEADS.items()]
    head = paragraph(f"Microseconds, {on_machine(outcomes['calls'])}:")
    return f"{head}\n{table(['', 'stock torch', 'torch_ext', 'ratio'], cells, 3)}"


def anomaly(outcomes):
    rows = {row["name"]: row for row in outcomes["calls"]["rows"]}
    return paragraph(
        f"There a training step took {rows['anomaly']['ratio']:.2f} times a plain one in torch_ext's anomaly mode, and "
        f"{rows['torch']['ratio']:.2f} times in torch's own, without NaN checks."
    )


def all_rows(outcomes):
    calls = outcomes["calls"]
    cells = [
        [row["title"], f"`{row['name']}`", *times(row), "" if row["goal"] is None else f"{row['goal']:.2f}"]
        for row in calls["rows"]
        if "ratio" in row
    ]
    head = paragraph(f"Microseconds, {on_machine(calls)}, {calls['settings']['rounds']} rounds:")
    return f"{head}\n{table(['what', 'row', 'reference', 'torch_ext', 'ratio', 'goal'], cells, 4)}"


def instructions(outcomes):
    """The rows that were counted, with each torch that they were; None if none was."""
    calls = outcomes["calls"]
    cells = [
        [
            f"`{row['name']}`",
            outcome["machine"]["torch"],
            *(f"{row['instructions'][side]:,.0f}" for side in ("reference", "ours")),
            f"{row['instructions']['ratio']:.3f}",
            "" if row["instructions"]["goal"] is None else f"{row['instructions']['goal']:.2f}",
        ]
        for outcome in (calls, *calls.get("against", ()))
        for row in outcome["rows"]
        if "instructions" in row
    ]
    return table(["row", "torch", "reference", "torch_ext", "ratio", "goal"], cells, 4) if cells else None


def anomaly_memory(outcomes):
    shallow, deep = outcomes["calls"]["anomaly_memory"].values()
    return paragraph(
        f"In anomaly mode a node takes {shallow['torch_ext']:,} bytes more than without, and {shallow['torch']:,} in "
        f"torch's; 60 frames deeper, {deep['torch_ext']:,} and {deep['torch']:,}: all that malloc hands out."
    )


def import_time(outcomes):
    outcome = outcomes["import_time"]
    low, high = outcome["quartiles"]
    return paragraph(
        f"`import torch_ext` took {outcome['ms']:.1f} ms of CPU time after `import torch` (quartiles {low:.1f} to "
        f"{high:.1f}, {outcome['runs']} processes; the goal is {outcome['goal']:.0f})."
    )


def growth(outcomes):
    found = outcomes["growth"]["growth"]
    ours, stock = found["ours"], found["reference"]
    goal = "" if found["slope_goal"] is None else f"; the goal is {found['slope_goal']}"
    chains = [
        [f"{each['size']:,}", *times(each), *(f"{each['memory'][side]:,.0f}" for side in ("reference", "ours"))]
        for each in outcomes["growth"]["chains"]
    ]
    headings = ["nodes", "stock torch, us", "torch_ext, us", "ratio", "stock torch, bytes", "torch_ext, bytes"]
    said = (
        f"From 100 nodes on the time grows by the power {ours['time_exponent']:.3f} of their number (stock torch: "
        f"{stock['time_exponent']:.3f}), and the memory by {ours['memory_exponent']:.3f} "
        f"({stock['memory_exponent']:.3f}). One tensor more takes {ours['argument_us']:.3f} microseconds (stock torch: "
        f"{stock['argument_us']:.3f}), {found['slope_ratio']:.2f} of it{goal}; the correlation is "
        f"{ours['correlation']:.4f}."
    )
    return f"{paragraph(said)}\n{table(headings, chains, 6)}"


def end_to_end(outcomes):
    cells = [
        [
            each["title"],
            *times(each, unit=1e3),
            f"{each['calls']:.0f}",
            f"{each['share']:.0%}",
        ]
        for each in outcomes["end_to_end"]["programs"]
    ]
    headings = ["a training step of", "stock torch, ms", "torch_ext, ms", "ratio", "calls", "share in Functions"]
    head = paragraph(f"Medians, {on_machine(outcomes['end_to_end'])}:")
    return f"{head}\n{table(headings, cells, 5)}"


TEXTS = {
    "overheads": overheads,
    "anomaly": anomaly,
    "all_rows": all_rows,
    "instructions": instructions,
    "anomaly_memory": anomaly_memory,
    "import_time": import_time,
    "growth": growth,
    "end_to_end": end_to_end,
}


def fill(page, outcomes):
    """Return the text of a page with what it has places for. Of what was not measured, its text stays.

    Raises:
        KeyError: it has a place for something else.
    """

    def filled(match):
        text = TEXTS[match[2]](outcomes)
        return match[0] if text is None else match[1] + text + match[4]

    return _PLACE.sub(filled, page)


def redraw(root, outcomes):
    """Fill the pages in the folder ``root``, and draw their pictures."""
    for name in PAGES:
        page = root / name
        page.write_text(fill(page.read_text(encoding="utf-8"), outcomes), encoding="utf-8")
    plots.draw_overheads(outcomes["calls"], OVERHEADS, root / "docs" / "bench.svg")
    plots.draw_growth(outcomes["growth"], root / "docs")


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tools.bench.docs", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look, to try the command; counts no instructions")
    parser.add_argument("--against", nargs="+", default=[], metavar="PYTHON", help="run the rows with these too")
    parser.add_argument("--redraw", action="store_true", help="measure nothing: what was measured last")
    parser.add_argument("--data", type=Path, default=ROOT / "build" / "bench", help="where the outcomes are kept")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder of the pages (default: this checkout)")
    options = parser.parse_args(arguments)
    if not options.redraw:
        measure(options.data, options.quick, options.against)
    redraw(options.root, read(options.data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
