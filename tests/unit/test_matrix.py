# SPDX-License-Identifier: BSD-3-Clause
"""The matrix of releases: what it finds, runs and prints. Nothing is installed here."""

import io
import json
import platform
import sys

import pytest
from rich.console import Console

from tools import copies
from tools.interpreters import find_interpreter, install_interpreter, version_of
from tools.matrix import __main__ as cli
from tools.matrix import record
from tools.matrix.cell import Cell, Run
from tools.matrix.report import to_table

# Stands for the environment's interpreter: import, tests, benchmark and fuzzer each have their output.
PYTHON = """#!/bin/sh
case "$*" in
  *-c*) echo 2.13.0+fake 3.11.7 ;;
  *pytest*) {tests} ;;
  *tools.bench*) cat bench.json ;;
  *tools.fuzz*) {fuzz} ;;
esac
"""
REPORT = '<testsuites><testsuite tests="7" failures="1" errors="1" skipped="2" time="3.5"/></testsuites>'
ROWS = [{"name": "identity", "ratio": 0.25, "met": True}, {"name": "saved", "ratio": 0.5, "met": False}]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout whose `make build` makes a stand-in for an environment; returns what makes the stand-in."""
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "bench.json").write_text(json.dumps({"rows": ROWS}))
    (root / "tests.txt").write_text(REPORT)
    (root / "Makefile").write_text(
        "build:\n\tmkdir -p .venv/bin\n\tcp python.sh .venv/bin/python\n\tchmod +x .venv/bin/python\n"
        "\techo PYTHON is $(PYTHON), TORCH is $(TORCH)\n"
    )
    monkeypatch.setattr(copies, "ROOT", root)

    def make(tests="cp tests.txt tests.xml; exit 1", fuzz='echo "$*"'):
        (root / "python.sh").write_text(PYTHON.format(tests=tests, fuzz=fuzz))

    make()
    return make


def run(tmp_path, **options):
    cell = Cell("2.13.0", "3.11")
    runs = Run(cell, tmp_path, workers=1, **options)
    runs.run()
    return cell, runs


@pytest.fixture(autouse=True)
def any_interpreter(request, monkeypatch):
    if "checkout" in request.fixturenames:
        monkeypatch.setattr(copies, "find_interpreter", lambda version: sys.executable)


def test_a_cell(checkout, tmp_path):
    cell, runs = run(tmp_path)
    assert cell.versions == ("2.13.0+fake", "3.11.7")
    assert (cell.passed, cell.failed, cell.skipped) == (3, 2, 2)
    assert (cell.ratios, cell.missed) == ({"identity": 0.25, "saved": 0.5}, {"saved"})
    assert not cell.good and not cell.failure
    assert f"PYTHON is {sys.executable}, TORCH is 2.13.0" in runs.copy.log.read_text()
    assert not runs.copy.path.exists()


def test_without_the_benchmark(checkout, tmp_path):
    cell, _ = run(tmp_path, bench=None)
    assert cell.tested is not None and not cell.ratios


def test_random_programs(checkout, tmp_path):
    cell, runs = run(tmp_path, programs=300)
    assert cell.fuzzed == 300 and not cell.failure
    assert "-m tools.fuzz --programs 300 --workers 1" in runs.copy.log.read_text()
    assert run(tmp_path)[0].fuzzed == 0

    checkout(fuzz="exit 1")
    cell, runs = run(tmp_path, programs=300)
    assert cell.fuzzed == 0 and cell.failure == f"fuzzer failed, see {runs.copy.log}"


def test_a_step_that_fails(checkout, tmp_path):
    checkout(tests="echo no tests here; exit 4")
    cell, runs = run(tmp_path)
    assert cell.failure == f"tests failed, see {runs.copy.log}"
    assert cell.built is not None and cell.tested is None and not cell.good
    assert "no tests here" in runs.copy.log.read_text()


def test_the_copy_can_be_kept(checkout, tmp_path):
    runs = Run(Cell("2.13.0", "3.11"), tmp_path, workers=1)
    runs.run(keep=True)
    assert (runs.copy.path / "tests.xml").exists()


def test_no_interpreter(tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "install_interpreter", lambda version, run: None)
    cell = Cell("2.13.0", "3.99")
    Run(cell, tmp_path, workers=1).run()
    assert cell.failure == "no such interpreter" and not cell.good


def test_an_interpreter_that_is_missing_is_installed(checkout, tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "find_interpreter", lambda version: None)
    monkeypatch.setattr(copies, "install_interpreter", lambda version, run: run(["echo", version]) and sys.executable)
    cell, runs = run(tmp_path)
    assert not cell.failure
    assert "$ echo 3.11\n3.11\n" in runs.copy.log.read_text()


def test_the_running_interpreter_is_found():
    free = "t" * version_of(sys.executable).free
    assert version_of(find_interpreter(platform.python_version() + free)).numbers == sys.version_info[:3]
    assert find_interpreter("3.99") is None


@pytest.fixture
def make_python(tmp_path, monkeypatch):
    """Makes what looks like pyenv's or uv's Python of a version; nothing else is found."""
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path / "uv"))
    places = {"pyenv": "versions/{}/bin/python", "uv": "cpython-{}-linux/bin/python3"}

    def make(tool, version):
        path = tmp_path / tool / places[tool].format(version)
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\necho {version}\n")
        path.chmod(0o755)
        return str(path)

    return make


@pytest.mark.parametrize("tool", ["pyenv", "uv"])
def test_the_newest_of_those_installed_is_found(make_python, tool):
    made = {version: make_python(tool, version) for version in ("3.98.2", "3.98.10", "3.98.9", "3.98.11t")}
    assert find_interpreter("3.98") == made["3.98.10"]
    assert find_interpreter("3.98.9") == made["3.98.9"]
    assert find_interpreter("3.98t") == find_interpreter("3.98.11t") == made["3.98.11t"]
    assert find_interpreter("3.98.9t") is None


@pytest.mark.parametrize("version", ["3", "3.14.1.2", "3.14d", "t3.14", ""])
def test_a_version_that_is_none(version):
    with pytest.raises(ValueError, match=r"is written 3\.14, 3\.14\.2 or"):
        find_interpreter(version)


def test_a_tool_installs_what_is_missing(make_python, monkeypatch):
    there, asked, can = {"uv", "pyenv"}, [], {"pyenv"}
    which = "tools.interpreters.shutil.which"
    monkeypatch.setattr(which, lambda name: name if name in there else None)

    def execute(command):
        asked.append(command)
        if command[0] in can:
            make_python(command[0], "3.98.1t")

    assert install_interpreter("3.98t", execute).endswith("3.98.1t/bin/python")
    assert asked == [["uv", "python", "install", "3.98t"], ["pyenv", "install", "--skip-existing", "3.98t"]]
    there.clear(), asked.clear()
    assert install_interpreter("3.96", execute) is None
    assert asked == []


def test_interpreters_that_do_not_run(tmp_path):
    assert version_of(str(tmp_path / "none")) is None
    assert version_of("false") is None


def test_table():
    console = Console(width=160, record=True, file=io.StringIO())
    good = Cell("2.13.0", "3.11", versions=("2.13.0+cpu", "3.11.7"), built=50.4, tested=600, passed=2400)
    good.ratios, good.fuzzed = {"identity": 0.3}, 10000
    console.print(to_table([good, Cell("2.15.0", "3.13", failure="no such interpreter")]))
    lines = [line.replace("│", " ").split() for line in console.export_text().splitlines()]
    assert ["2.13.0+cpu", "3.11.7", "50", "2400", "0", "0", "600", "0.30", "10000"] in lines
    assert ["2.15.0", "3.13", "no", "such", "interpreter"] in lines


def ended(torch, python, asked="", **known):
    """A cell whose tests have ended."""
    return Cell("", asked or python, versions=(torch, python), tested=1.0, **known)


def test_what_was_run_is_kept(tmp_path):
    path = tmp_path / "record.json"
    cells = [
        ended("2.13.0+cpu", "3.12.1", passed=2400, date="2030-01-31", fuzzed=10000, ratios={"identity": 0.25}),
        ended("2.9.1", "3.12.1", passed=1, failed=2, date="2030-02-01"),
        ended("2.13.0+cpu", "3.14.0", "3.14t", passed=7, date="2030-02-02"),
        ended("2.13.0+cpu", "3.14.0", passed=8, date="2030-02-03"),
    ]
    for cell in cells:
        record.keep(cell, path=path)
    assert record.to_markdown(record.read(path)).splitlines()[2:] == [
        "| 2.9.1 | 3.12.1 | 2030-02-01 | all | 1 | 2 | 0 |  |  |  |  |  |",
        "| 2.13.0+cpu | 3.12.1 | 2030-01-31 | all | 2,400 | 0 | 10,000 | 0.25 |  |  |  |  |",
        "| 2.13.0+cpu | 3.14.0 | 2030-02-03 | all | 8 | 0 | 0 |  |  |  |  |  |",
        "| 2.13.0+cpu | 3.14.0t | 2030-02-02 | all | 7 | 0 | 0 |  |  |  |  |  |",
    ]
    # A newer patch of either takes the place of the older one.
    record.keep(ended("2.13.1+cpu", "3.12.2", passed=9), "some", path)
    kept = [(each["torch"], each["python"], each["tests"]) for each in record.read(path)]
    assert ("2.13.1+cpu", "3.12.2", "some") in kept and len(kept) == 4


def test_the_page_has_what_was_recorded():
    page = record.PAGE.read_text(encoding="utf-8")
    assert page.count("<!-- matrix -->") == page.count("<!-- /matrix -->") == 1
    assert record.fill(page, record.read()) == page


def test_a_page_is_redrawn(tmp_path):
    page, path = tmp_path / "page.md", tmp_path / "record.json"
    page.write_text("before\n<!-- matrix -->\nold\n\n<!-- /matrix -->\nafter\n")
    record.keep(ended("2.13.0", "3.12.1"), path=path)
    record.redraw(page, path)
    lines = page.read_text().splitlines()
    assert lines[:2] == ["before", "<!-- matrix -->"] and lines[-2:] == ["<!-- /matrix -->", "after"]
    assert lines[2].startswith("| torch | Python | date |") and lines[4].startswith("| 2.13.0 | 3.12.1 |")
    assert len(lines) == 7


@pytest.mark.parametrize("arguments, tests", [([], None), (["--record"], "all"), (["--record", "parity"], "parity")])
def test_only_what_ended_is_recorded(monkeypatch, tmp_path, arguments, tests):
    def fill(self, keep):
        if self.cell.torch == "2.15.0":
            self.cell.failure = "build failed"
        else:
            self.cell.tested = 1.0

    kept = []
    monkeypatch.setattr(Run, "run", fill)
    monkeypatch.setattr(record, "keep", lambda cell, tests: kept.append((cell.torch, tests)))
    monkeypatch.setattr(record, "redraw", lambda: kept.append("redrawn"))
    cli.main(["--torch", "2.13.0", "2.15.0", "--python", "3.11", "--folder", str(tmp_path), *arguments])
    assert kept == ([] if tests is None else [("2.13.0", tests), "redrawn"])


@pytest.mark.parametrize("failed, status", [(0, 0), (1, 1)])
def test_the_command(monkeypatch, capsys, tmp_path, failed, status):
    def fill(self, keep):
        self.cell.passed, self.cell.failed = 5, failed

    monkeypatch.setattr(Run, "run", fill)
    arguments = ["--torch", "2.13.0", "2.15.0", "--python", "3.11", "--folder", str(tmp_path), "--no-bench"]
    assert cli.main(arguments) == status
    output = capsys.readouterr().out
    assert f"torch 2.15.0 on Python 3.11 ...\n  5 passed, {failed} failed" in output


def test_its_options():
    options = cli.parse_options(["--pytest=-k 'a or b'", "--bench=--quick"])
    assert options.pytest == ["-k", "a or b"] and options.bench == ["--quick"]
    assert options.python == ["3.10", "3.11", "3.12", "3.13", "3.14"]
    assert options.fuzz == 10_000 and options.record is None
    assert cli.parse_options(["--no-bench"]).bench is None
