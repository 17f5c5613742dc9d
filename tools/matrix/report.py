# SPDX-License-Identifier: BSD-3-Clause
"""The matrix as one table."""

from __future__ import annotations

from rich.table import Table

#: The rows of the benchmark that have a column.
ROWS = ("identity", "saved", "many", "setup_context", "chain")


def to_table(cells):
    table = Table(title="Ratios of the benchmark are measured to reference; red ones miss their goal")
    for heading in ("torch", "Python"):
        table.add_column(heading, no_wrap=True)
    for heading in ("build\ns", "tests\npassed", "\nfailed", "\nskipped", "\ns", *ROWS, "programs\nalike"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for cell in cells:
        table.add_row(*to_row(cell))
    return table


def to_row(cell):
    torch, python = (has or asked for has, asked in zip(cell.versions, (cell.torch, cell.python), strict=True))
    tests = ["", "", "", ""]
    if cell.tested is not None:
        failed = f"[red]{cell.failed}[/]" if cell.failed else "0"
        tests = [str(cell.passed), failed, str(cell.skipped), f"{cell.tested:.0f}"]
    built = "" if cell.built is None else f"{cell.built:.0f}"
    fuzzed = str(cell.fuzzed) if cell.fuzzed else ""
    return [torch, python, built, *tests, *(ratio(cell, row) for row in ROWS), fuzzed, cell.failure]


def ratio(cell, row):
    if row not in cell.ratios:
        return ""
    text = f"{cell.ratios[row]:.2f}"
    return f"[red]{text}[/]" if row in cell.missed else text
