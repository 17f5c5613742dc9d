# SPDX-License-Identifier: BSD-3-Clause
"""The outcome as tables, at most 80 columns wide."""

from __future__ import annotations

from rich import box
from rich.table import Table

WORDS = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}


def to_table(outcomes):
    """Return a table of what :func:`report.to_json` returned, of one environment or of several.

    Of rows that were counted it has the instructions, and beside them the ratio of times; else the times.
    """
    counted = any("instructions" in row for outcome in outcomes for row in outcome["rows"])
    headings, cells = (COUNTED, counted_cells) if counted else (TIMED, timed_cells)
    several = len(outcomes) > 1
    # Without more space between columns, that there is room for one more.
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0 if several else 1, 0, 0))
    table.add_column("row\n", no_wrap=True)
    if several:
        table.add_column("torch\n", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for name in dict.fromkeys(row["name"] for outcome in outcomes for row in outcome["rows"]):
        title = name
        for outcome in outcomes:
            for row in outcome["rows"]:
                if row["name"] == name:
                    torch = [short(outcome["machine"]["torch"])] if several else []
                    table.add_row(title, *torch, *cells(row))
                    title = ""  # once
    return table


TIMED = "reference\nus", "measured\nus", "ratio\n", "quartiles\nof ratio", "goal\n", "verdict\n"


def timed_cells(row):
    if "ratio" not in row:
        return ()
    low, high = row["quartiles"]
    times = f"{row['reference']:.2f}", f"{row['ours']:.2f}", f"{row['ratio']:.2f}", f"{low:.2f}-{high:.2f}"
    return *times, two_digits(row["goal"]), WORDS[row["met"]]


COUNTED = "reference\ninstr.", "measured\ninstr.", "ratio\n", "goal\n", "verdict\n", "ratio\nof times"


def counted_cells(row):
    counts = row.get("instructions")
    if counts is None:
        return *[""] * 5, two_digits(row.get("ratio"))
    judged = f"{counts['ratio']:.3f}", two_digits(counts["goal"]), WORDS[counts["met"]]
    return number(counts["reference"]), number(counts["ours"]), *judged, two_digits(row.get("ratio"))


def number(count):
    return f"{count:,.0f}" if count < 1e7 else f"{count / 1e6:,.1f} M"


def two_digits(ratio):
    return "" if ratio is None else f"{ratio:.2f}"


def short(version):
    return ".".join(version.split(".")[:2])


def legend(row):
    """The line below the table that says what a row is."""
    line = f"{row['name']}: {row['title']}"
    if row["is_step"] and "per_second" in row:
        steps = row["per_second"]
        line += f"; steps a second: {steps['reference']:,.0f}, measured: {steps['ours']:,.0f}"
    return line


def to_memory_table(memory):
    """Return a table of what :func:`memory.measure_memory` returned."""
    table = Table(title="Anomaly mode: memory by node of the graph (bytes)")
    table.add_column("stack")
    for mode in next(iter(memory.values())):
        table.add_column(mode, justify="right")
    for label, modes in memory.items():
        table.add_row(label, *(f"{size:,}" for size in modes.values()))
    return table
