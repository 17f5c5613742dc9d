# SPDX-License-Identifier: BSD-3-Clause
"""What was run last in each cell, kept in the checkout, and the table of docs/releases.md that says so."""

from __future__ import annotations

import json
import re
from pathlib import Path

from .report import ROWS

ROOT = Path(__file__).resolve().parents[2]
PATH = Path(__file__).with_name("record.json")
PAGE = ROOT / "docs" / "releases.md"
HEADINGS = ("torch", "Python", "date", "tests", "passed", "failed", "programs", *ROWS)
#: The columns that are no numbers.
_WORDS = 4
_PLACE = re.compile(r"(<!-- matrix -->\n).*?(<!-- /matrix -->)", re.DOTALL)


def read(path=PATH):
    """Return the entries, one a cell, as dicts."""
    return json.loads(path.read_text()) if path.exists() else []


def keep(cell, tests="all", path=PATH):
    """Write down what came of a cell whose tests ended, in place of what its releases have there.

    Args:
        cell: the :class:`.cell.Cell`.
        tests: which tests those were, for people.
        path: the file.
    """
    torch, python = cell.versions
    entry = {"torch": torch, "python": python, "free": cell.python.endswith("t"), "date": cell.date, "tests": tests}
    entry |= {"passed": cell.passed, "failed": cell.failed, "programs": cell.fuzzed, "ratios": cell.ratios}
    entries = [entry, *(each for each in read(path) if pair(each) != pair(entry))]
    lines = ",\n".join(json.dumps(each) for each in sorted(entries, key=pair))
    path.write_text(f"[\n{lines}\n]\n")


def pair(entry):
    """The releases of an entry, such that a newer patch of either takes the older one's place."""
    torch, python = (tuple(map(int, re.findall(r"\d+", entry[of])[:2])) for of in ("torch", "python"))
    return torch, python, entry["free"]


def to_markdown(entries):
    lines = [HEADINGS, ["---"] * _WORDS + ["---:"] * (len(HEADINGS) - _WORDS), *map(to_row, entries)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def to_row(entry):
    ratios = (f"{entry['ratios'][row]:.2f}" if row in entry["ratios"] else "" for row in ROWS)
    counts = (f"{entry[name]:,}" for name in ("passed", "failed", "programs"))
    return [entry["torch"], entry["python"] + "t" * entry["free"], entry["date"], entry["tests"], *counts, *ratios]


def fill(text, entries):
    """Return the page's text with the table of ``entries`` in its place."""
    return _PLACE.sub(lambda match: match[1] + to_markdown(entries) + match[2], text)


def redraw(page=PAGE, path=PATH):
    """Write the table into the page."""
    page.write_text(fill(page.read_text(encoding="utf-8"), read(path)), encoding="utf-8")
