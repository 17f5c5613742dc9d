# SPDX-License-Identifier: BSD-3-Clause
"""``pytest --torch-ext=compare``: each test on stock torch, and again on torch_ext."""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from _pytest import runner
from _pytest._code.code import ExceptionChainRepr, ReprFileLocation, ReprTracebackNative

from .outcome import Outcome, Phase, side_by_side
from .running import Running
from .starting import Start

if TYPE_CHECKING:
    from torch_ext.compare import Sides

_STOCK, _OURS = "stock torch", "torch_ext"
_TITLE = "on stock torch and on torch_ext"
_DIFFERS = "differs between stock torch and torch_ext"
_ALIKE = "This test fails alike on stock torch and on torch_ext: the failure is its own."


@dataclass
class Run:
    """One run of a test."""

    side: str
    reports: list[pytest.TestReport]
    outcome: Outcome
    warnings: list[warnings.WarningMessage]


class Comparing(Running):
    """Runs each test on both sides, and reports it once.

    A report says in its attribute ``torch_ext`` what came of it: xdist sends that along.
    """

    def __init__(self, sides: Sides) -> None:
        super().__init__(sides)
        self._side: str | None = None  # while a test runs that is compared
        self._is_again = False  # and has run before
        self._phases: list[Phase] = []
        self._verdicts: defaultdict[str, list[str]] = defaultdict(list)

    def is_stock(self, item: pytest.Item) -> bool:
        """As for Running, and the first of two runs."""
        return super().is_stock(item) if self._side is None else self._side == _STOCK

    # --- Running ----------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Runs a test on both sides; None leaves it to pytest, which runs it once."""
        if super().is_stock(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for left in range(_reruns(item), -1, -1):
            reports = self._compare(item, nextitem)
            failed = [each for each in reports if each.failed and not hasattr(each, "wasxfail")]
            if left and failed:
                failed[0].outcome = "rerun"  # type: ignore[assignment]  # what pytest-rerunfailures counts
                item.ihook.pytest_runtest_logreport(report=failed[0])
                continue
            for report in reports:
                item.ihook.pytest_runtest_logreport(report=report)
            break
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _compare(self, item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
        start = Start(item)
        # What has a wider scope than the test stays for the next run.
        stock = self._run(item, _STOCK, lambda: item.parent)
        ours = self._run(item, _OURS, lambda: nextitem if self._has_phases_of(stock) else item.parent, start)
        for each in stock.warnings:
            warnings.showwarning(each.message, each.category, each.filename, each.lineno)
        if ours.outcome == stock.outcome:
            return _alike(stock)
        once_more = self._run(item, _STOCK, lambda: nextitem, start)
        if once_more.outcome != stock.outcome:
            return _judged(stock, "unsteady")
        return _different(item, stock, ours)

    def _run(self, item: pytest.Item, side: str, next_of: Callable[[], Any], start: Start | None = None) -> Run:
        """Runs a test, if it isn't the first time as from ``start``; ``next_of()`` says what is to outlive it."""
        subtests = _failed_subtests(item)
        counted = dict(subtests)
        if start is not None:
            start.again()
        self._side, self._is_again, self._phases = side, start is not None, []
        try:
            with warnings.catch_warnings(record=True) as caught:
                reports = _phases(item, next_of)
        finally:
            self._side, self._is_again = None, False
        if start is not None:
            subtests.clear()
            subtests.update(counted)
        return Run(side, reports, Outcome.of(item, self._phases, caught), caught)

    def _has_phases_of(self, run: Run) -> bool:
        """Whether all is as in ``run`` up to the teardown that begins now."""
        return tuple(self._phases) == run.outcome.phases[: len(self._phases)]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Notes how a phase ends."""
        report = yield
        if self._side is not None:
            self._phases.append(Phase.of(item, report, None if call.excinfo is None else call.excinfo.value))
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Counts what came of each test, and keeps subtests, which report by themselves, from being counted twice."""
        if self._is_again:
            report.outcome, report.when, report.longrepr = "passed", "setup", None
        elif (verdict := getattr(report, "torch_ext", None)) is not None:
            self._verdicts[verdict].append(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_exception_interact(self, node: pytest.Item) -> None:
        """Says for --pdb which of the runs it is."""
        if self._side is not None and node.config.getoption("usepdb"):
            node.config.get_terminal_writer().line(f"\ntorch_ext: this is the run on {self._side}")

    # --- The end ----------------------------------------------------------------------------------

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Says how many tests were compared, and which differ."""
        same, different, unsteady = (self._verdicts[each] for each in ("same", "different", "unsteady"))
        terminalreporter.section("torch_ext")
        compared = len(same) + len(different)
        terminalreporter.line(f"compared {_TITLE}: {compared}; different: {len(different)}")
        for nodeid in different:
            terminalreporter.line(f"  {nodeid}")
        if unsteady:
            terminalreporter.line(f"not compared, since run again on stock torch they end otherwise: {len(unsteady)}")
            for nodeid in unsteady:
                terminalreporter.line(f"  {nodeid}")


def _phases(item: Any, next_of: Callable[[], Any]) -> list[pytest.TestReport]:
    """Runs an item's phases without logging them, as pytest does for a test that is run again."""
    has_request = hasattr(item, "_request")
    if has_request and not item._request:
        item._initrequest()
    try:
        reports = [runner.call_and_report(item, "setup", log=False)]
        setup_only = item.config.getoption("setuponly", False)
        if reports[0].passed and item.config.getoption("setupshow", False):
            runner.show_test_item(item, add_space=not setup_only)
        if reports[0].passed and not setup_only:
            reports.append(runner.call_and_report(item, "call", log=False))
        reports.append(runner.call_and_report(item, "teardown", log=False, nextitem=next_of()))
    finally:
        if has_request:
            item._request = False
            item.funcargs = None
    return reports


def _failed_subtests(item: pytest.Item) -> dict[Any, int]:
    """Where pytest, from 9 on, counts the subtests that fail."""
    module: Any = sys.modules.get("_pytest.subtests")
    counts: dict[Any, int] = {} if module is None else item.config.stash[module.failed_subtests_key]
    return counts


def _reruns(item: pytest.Item) -> int:
    """How often pytest-rerunfailures would run a test again; a comparison as a whole is run again."""
    plugin: Any = item.config.pluginmanager.get_plugin("rerunfailures")
    return 0 if plugin is None else plugin.get_reruns_count(item) or 0


# --- What is reported -----------------------------------------------------------------------------


def _judged(run: Run, verdict: str) -> list[pytest.TestReport]:
    vars(run.reports[-1])["torch_ext"] = verdict
    return run.reports


def _alike(stock: Run) -> list[pytest.TestReport]:
    for report in stock.reports:
        if report.failed:
            report.sections.append((_TITLE, _ALIKE))
    return _judged(stock, "same")


def _different(item: pytest.Item, stock: Run, ours: Run) -> list[pytest.TestReport]:
    text = [f"The outcome {_DIFFERS}:\n\n{side_by_side(stock.outcome, ours.outcome)}\n"]
    sections = []
    for run in (stock, ours):
        failed = (each for each in run.reports if each.failed)
        text += [f"\nOn {run.side}, {each.when}:\n\n{each.longreprtext}\n" for each in failed]
        sections += [(f"{name} (on {run.side})", content) for name, content in run.reports[-1].sections]
    file, line, _ = item.location
    place = ReprFileLocation(file, (line or 0) + 1, _DIFFERS)
    longrepr = ExceptionChainRepr([(ReprTracebackNative(["".join(text)]), place, None)])
    (setup, *_, teardown) = (_report_like(each, "passed", None) for each in ours.reports)
    call = _report_like(ours.reports[-2], "failed", longrepr, when="call", sections=sections)
    vars(teardown)["torch_ext"] = "different"
    return [setup, call, teardown]


def _report_like(report: pytest.TestReport, outcome: Any, longrepr: Any, **changes: Any) -> pytest.TestReport:
    names = ("nodeid", "location", "keywords", "when", "duration", "start", "stop", "user_properties")
    facts = {name: getattr(report, name) for name in names if hasattr(report, name)}
    return pytest.TestReport(**{**facts, "outcome": outcome, "longrepr": longrepr, **changes})
