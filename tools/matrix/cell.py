# SPDX-License-Identifier: BSD-3-Clause
"""One cell of the matrix: a release of torch on a release of Python."""

from __future__ import annotations

import datetime
import json
import time
from dataclasses import dataclass, field
from xml.etree import ElementTree

from ..copies import Copy, StepFailed


@dataclass
class Cell:
    """What was asked for, and what came of it.

    Attributes:
        torch, python: the releases asked for.
        failure: the step that went wrong and where its output is, as text; empty if none did.
        versions: the full versions of torch and Python that ran.
        built, tested: the seconds that building and testing took; None if it didn't end.
        passed, failed, skipped: how many tests.
        fuzzed: how many random programs gave the same as on stock torch, all of them; 0 if none were run.
        ratios: measured to reference, by row of the benchmark; ``missed`` has the rows that miss their goal.
    """

    torch: str
    python: str
    failure: str = ""
    versions: tuple[str, str] = ("", "")
    built: float | None = None
    tested: float | None = None
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    fuzzed: int = 0
    ratios: dict[str, float] = field(default_factory=dict)
    missed: set[str] = field(default_factory=set)
    date: str = field(default_factory=lambda: str(datetime.date.today()))

    @property
    def good(self):
        return not self.failure and not self.failed


class Run:
    """Fills a cell, in a copy of the checkout with an environment of its own.

    Arguments:
        cell: the cell to fill.
        folder: where the copy and the log go.
        workers: processes for the tests and the fuzzer.
        pytest, bench: further arguments for either; ``bench`` None leaves the benchmark out.
        programs: how many random programs the fuzzer runs.
    """

    def __init__(self, cell, folder, workers, pytest=(), bench=(), programs=0):
        self.cell = cell
        self.copy = Copy(folder, cell.torch, cell.python)
        self.workers = workers
        self.pytest = pytest
        self.bench = bench
        self.programs = programs

    def run(self, keep=False):
        """Runs all steps, up to the first that fails. Removes the copy unless ``keep`` is set."""
        try:
            self.copy.create()
            self.build()
            self.test()
            if self.bench is not None:
                self.measure()
            if self.programs:
                self.fuzz()
        except StepFailed as failure:
            self.cell.failure = str(failure)
        finally:
            if not keep:
                self.copy.remove()

    def build(self):
        start = time.monotonic()
        self.copy.make("build", "build")
        self.cell.built = time.monotonic() - start
        code = "import platform, torch; print(torch.__version__, platform.python_version())"
        self.cell.versions = tuple(self.copy.command("import", self.copy.environment_python, "-c", code).split())

    def test(self):
        report = self.copy.path / "tests.xml"
        start = time.monotonic()
        arguments = ["-q", "-n", str(self.workers), f"--junitxml={report}", *self.pytest]
        # The report says which tests failed; without one, pytest itself failed.
        self.copy.command("tests", self.copy.environment_python, "-m", "pytest", *arguments, made=report)
        self.cell.tested = time.monotonic() - start
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            count = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
            self.cell.failed += count["failures"] + count["errors"]
            self.cell.skipped += count["skipped"]
            self.cell.passed += count["tests"] - count["failures"] - count["errors"] - count["skipped"]

    def measure(self):
        command = [self.copy.environment_python, "-m", "tools.bench", "--json", *self.bench]
        output = self.copy.command("benchmark", *command)
        rows = json.loads(output)["rows"]
        self.cell.ratios = {row["name"]: row["ratio"] for row in rows}
        self.cell.missed = {row["name"] for row in rows if row["met"] is False}

    def fuzz(self):
        arguments = ["--programs", str(self.programs), "--workers", str(self.workers)]
        self.copy.command("fuzzer", self.copy.environment_python, "-m", "tools.fuzz", *arguments)
        self.cell.fuzzed = self.programs
