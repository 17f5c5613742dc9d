# SPDX-License-Identifier: BSD-3-Clause
"""Tables to choose from: rows of a weight, the facility that is used, and the code that uses it."""

import string
from dataclasses import dataclass
from typing import ClassVar

from hypothesis import strategies as st

_number = st.integers(0, 5)
_parse = string.Formatter().parse


@dataclass(frozen=True)
class Piece:
    """Code with open places, and for each place a number that chooses among the names that fit."""

    facility: str
    code: str
    numbers: tuple[int, ...] = ()

    def filled(self, names):
        """The code, given the names that fit each kind of place."""
        parts = []
        numbers = iter(self.numbers)
        for text, kind, _, _ in _parse(self.code):
            parts.append(text)
            if kind is not None:
                fitting = names[kind]
                parts.append(fitting[next(numbers) % len(fitting)])
        return "".join(parts)


class Table:
    """Pieces of code to draw from. The first row is the simplest one, which shrinking leads to."""

    tables: ClassVar[list["Table"]] = []

    def __init__(self, *rows):
        self._rows = [(facility, code, _places(code)) for _, facility, code in rows]
        self._by_lot = [row for row, (weight, _, _) in zip(self._rows, rows, strict=True) for _ in range(weight)]
        self._lot = st.integers(0, len(self._by_lot) - 1)
        self.facilities = {facility for _, facility, _ in rows if facility}
        self.tables.append(self)

    def draw(self, draw):
        facility, code, places = self._by_lot[draw(self._lot)]
        return Piece(facility, code, tuple(draw(_number) for _ in range(places)))


def _places(code):
    return sum(kind is not None for _, kind, _, _ in _parse(code))


def some(draw, table, percents):
    """One row after another while chance allows: ``percents`` has the chance of a first one, a second one ..."""
    pieces = []
    for percent in percents:
        if not chance(draw, percent):
            break
        pieces.append(table.draw(draw))
    return tuple(pieces)


_percent = st.integers(0, 99)


def chance(draw, percent):
    """True in ``percent`` of a hundred cases; shrinks to False."""
    return draw(_percent) >= 100 - percent


def facilities():
    """The names of all facilities."""
    return sorted(set().union(*(table.facilities for table in Table.tables)))
