# SPDX-License-Identifier: BSD-3-Clause
"""What of a run of a test is compared, and how two outcomes are shown."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from warnings import WarningMessage

import pytest

from torch_ext.compare.texts import without_addresses

_COLUMN = 33  # two of them and the phases' names fit into a terminal


@dataclass(frozen=True)
class Phase:
    """The end of a phase: setup, call or teardown; a subtest has a call of its own.

    Attributes:
        when: the phase.
        result: passed, failed, skipped, xfailed or xpassed.
        error: the exception's type and text without what differs always; empty if there was none.
    """

    when: str
    result: str
    error: str

    @classmethod
    def of(cls, item: pytest.Item, report: pytest.TestReport, error: BaseException | None) -> Phase:
        """The phase that ``report`` is on."""
        result: str = report.outcome
        if hasattr(report, "wasxfail"):
            result = "xpassed" if report.passed else "xfailed"
        text = "" if error is None else _steady(item, f"{_name(type(error))}: {_message(error)}")
        return cls(report.when or "", result, text)


@dataclass(frozen=True)
class Outcome:
    """What of a run is compared."""

    phases: tuple[Phase, ...]
    warnings: frozenset[str]

    @classmethod
    def of(cls, item: pytest.Item, phases: Iterable[Phase], caught: Iterable[WarningMessage]) -> Outcome:
        """The outcome of a run with these phases and warnings.

        Not how often a warning came, nor from where: libtorch gives the innermost line of Python, which is one of
        torch's on stock torch only.
        """
        texts = (_steady(item, f"{_name(each.category)}: {each.message}") for each in caught)
        return cls(tuple(phases), frozenset(texts))


def side_by_side(stock: Outcome, ours: Outcome) -> str:
    """Two outcomes as a table."""
    rows = [("", "stock torch", "torch_ext")]
    for when in ("setup", "call", "teardown"):
        pairs = zip_longest(*([each for each in outcome.phases if each.when == when] for outcome in (stock, ours)))
        rows += [(when, _text(one), _text(other)) for one, other in pairs]
    if stock.warnings or ours.warnings:
        one, other = ("\n".join(sorted(each.warnings)) or "none" for each in (stock, ours))
        rows.append(("warnings", one, other))
    return "\n".join(line for row in rows for line in _lines(*row))


def _text(phase: Phase | None) -> str:
    if phase is None:
        return "not run"
    return f"{phase.result}\n{phase.error}" if phase.error else phase.result


def _lines(name: str, one: str, other: str) -> list[str]:
    left, right = (
        [part for line in text.splitlines() for part in textwrap.wrap(line, _COLUMN) or [""]] for text in (one, other)
    )
    lines = zip_longest([name], left, right, fillvalue="")
    return [f"{name:10}{one:{_COLUMN}}  {other}".rstrip() for name, one, other in lines]


def _name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _message(error: BaseException) -> str:
    """The text of an exception; of a doctest what it got, which its text leaves out."""
    failures: list[BaseException] = getattr(error, "failures", [error])
    return "\n".join(str(getattr(each, "got", each)) for each in failures)


def _steady(item: pytest.Item, text: str) -> str:
    """``text`` without what differs between two runs of one test: addresses, and the numbers of tmp_path."""
    folder = re.sub(r"\W", "_", item.name)[:30]
    return re.sub(rf"/{folder}\d+", f"/{folder}", without_addresses(text))
