# SPDX-License-Identifier: BSD-3-Clause
"""Numbers and tables as the reports on graphs print them, at most 100 columns wide."""

import os
from collections.abc import Iterable, Sequence

from ..anomaly.facts import Frame

WIDTH = 100
UNKNOWN_LINE = "(line not noted)"


def size(count: int) -> str:
    """A number of bytes for people: "512 B", "1.5 MiB"."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1023.95:
            break
        value, unit = value / 1024, larger
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def plural(count: int, word: str) -> str:
    """Returns "1 node", "2 nodes"."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def place(frame: Frame | None) -> str:
    """A line as ``file.py:12``."""
    return UNKNOWN_LINE if frame is None else f"{os.path.basename(frame.file)}:{frame.line}"


def line(frame: Frame | None) -> str:
    """A line as ``file.py:12 what it says``."""
    return place(frame) if frame is None or not frame.source else f"{place(frame)}  {frame.source}"


def cut(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns."""
    return text if len(text) <= width else text[: max(width - 3, 0)] + "..."


def table(head: Sequence[str], rows: Iterable[Sequence[str]], indent: str = "  ", width: int = WIDTH) -> list[str]:
    """Lines with columns of numbers, to the right, and a last column of text, to the left and cut."""
    rows = [head, *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
    lines = []
    for row in rows:
        start = indent + "".join(f"{cell:>{each}}  " for cell, each in zip(row[:-1], widths, strict=True))
        lines.append((start + cut(row[-1], width - len(start))).rstrip())
    return lines


def shape(sizes: Sequence[int | str], dtype: str) -> str:
    """Returns "2x3 float32"."""
    return f"{'x'.join(map(str, sizes)) or 'scalar'} {dtype}"
