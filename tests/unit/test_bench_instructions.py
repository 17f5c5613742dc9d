# SPDX-License-Identifier: BSD-3-Clause
"""Counting instructions: the clock, the process that counts, the ratios that are checked in, the command."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from tools.bench import __main__ as cli
from tools.bench.__main__ import main
from tools.bench.goals import INSTRUCTIONS, goals_for
from tools.bench.instructions import Count, CountingFailed, Unavailable, baseline, count_instructions, counting, run
from tools.bench.instructions import clock as clocks
from tools.bench.instructions import valgrind as finding
from tools.bench.instructions.valgrind import compile_requests, find_valgrind
from tools.bench.report import to_json
from tools.bench.rows import ROWS, Probe, Row

CHECKED = [row.name for row in ROWS if row.is_checked]

# --- Really counted -------------------------------------------------------------------------------

# It doesn't import torch, which takes long there.
LOOPS = """
import runpy, sys, threading
Instructions = runpy.run_path(sys.argv[1])["Instructions"]
clock = Instructions(*sys.argv[2:])
clock.start()

def counted(rounds, in_thread=False):
    before = clock()
    run = lambda: [None for _ in range(rounds)]
    if in_thread:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    else:
        run()
    return clock() - before

counted(100_000)
print(counted(0), counted(100_000), counted(200_000), counted(100_000, in_thread=True))
"""


def test_the_clock_counts_on_all_threads_and_not_itself(tmp_path):
    library = compile_requests(tmp_path)
    options = ["--tool=callgrind", "--quiet", "--instr-atstart=no", f"--callgrind-out-file={tmp_path}/%p"]
    program = [sys.executable, "-c", LOOPS, clocks.__file__, library, tmp_path]
    done = subprocess.run([find_valgrind(), *options, *program], capture_output=True, check=True, text=True)
    nothing, once, twice, in_thread = map(int, done.stdout.split())
    assert nothing < 0.05 * once
    assert twice - once == pytest.approx(once - nothing, rel=0.05)
    assert 0.95 * once < in_thread < 1.5 * once


def test_a_row_is_counted():
    done = []
    counts = count_instructions(["setup_context"], lambda: done.append(True))
    assert done == [True]
    assert list(counts) == ["setup_context"]
    count = counts["setup_context"]
    # On torch 2.13 and 2.15: 150,000 and 11,000.
    assert 3_000 < count.ours < 0.2 * count.reference < 100_000


# --- What is counted of a probe -------------------------------------------------------------------


@pytest.fixture
def ticking(monkeypatch):
    """A clock of instructions that pass only when a test says so; reading it takes 5,000, as what is around calls."""

    class Clock:
        now = 0

        def __call__(self):
            self.now += 5_000
            return self.now

        def taking(self, count, seen):
            def call():
                self.now += count
                seen.append(torch.is_grad_enabled())

            return call

    return Clock()


def test_a_probe_is_its_call_less_its_floor_by_unit(ticking):
    calls, floors, inside = [], [], []

    @contextmanager
    def context():
        inside.append(True)
        yield

    probe = Probe(ticking.taking(80_000, calls), ticking.taking(20_000, floors), units=4, context=context)
    assert counting.count(lambda: probe, ticking) == (80_000 - 20_000) / 4
    assert set(calls) == {True}
    assert set(floors) == {False}
    assert len(inside) == 10
    assert counting.count(lambda: Probe(ticking.taking(80_000, calls)), ticking) == 80_000


def test_a_probe_is_called_before_it_is_counted_and_often_enough(ticking):
    for instructions, number in (
        (75_000, counting.ENOUGH // 80_000),
        (counting.ENOUGH, counting.FEW),
        (counting.TOO_LONG, 1),  # and 5,000 for reading the clock
    ):
        calls = []
        counting.count(lambda: Probe(ticking.taking(instructions, calls)), ticking)
        assert len(calls) == 1 + 1 + number + number + 2 * number


def test_the_clock_reads_what_callgrind_writes(tmp_path, monkeypatch):
    done = []

    class Requests:
        def pause_counting(self):
            done.append("pause")
            (tmp_path / f"{os.getpid()}.{len(done)}").write_text(f"events: Ir\nfn=(1)\n0 7\ntotals: {len(done)}\n")
            (tmp_path / f"{os.getpid() + 1}.1").write_text("totals: 1000\n")  # of another process

        def resume_counting(self):
            done.append("resume")

        def start_counting(self):
            done.append("start")

    monkeypatch.setattr(clocks.ctypes, "PyDLL", lambda library: Requests())
    clock = clocks.Instructions("library", tmp_path)
    clock.start()
    assert (clock(), clock()) == (2 + 4, 2 + 4 + 6)
    assert done == ["start", *["pause", "resume"] * 3]
    assert [file.name for file in tmp_path.iterdir()] == [f"{os.getpid() + 1}.1"]


# --- The process that counts ----------------------------------------------------------------------


@pytest.fixture
def counting_program(monkeypatch):
    """Puts a program of a test in the place of the process that counts."""

    def put(program):
        monkeypatch.setattr(run, "compile_requests", lambda folder: "requests.so")
        monkeypatch.setattr(run, "under_callgrind", lambda *arguments: [sys.executable, "-c", program])

    return put


def test_what_it_prints_is_read_in_the_order_asked_for(counting_program):
    counting_program("print('[\"b\", 20, 10]'); print('[\"a\", 10, 9.5]')")
    done = []
    counts = count_instructions(["a", "b"], lambda: done.append(True))
    assert list(counts.items()) == [("a", Count(10, 9.5)), ("b", Count(20, 10))]
    assert [count.ratio for count in counts.values()] == [0.95, 0.5]
    assert len(done) == 2


@pytest.mark.parametrize(
    "program, said",
    [
        ("print('[\"a\", 2, 1]'); raise SystemExit('chain: it is broken')", "chain: it is broken"),
        ("raise SystemExit(3)", "exit status 3"),
        ("print('[\"a\", 2, 1]')", "exit status 0"),  # b is missing
    ],
)
def test_what_it_says_is_shown_if_it_fails(counting_program, program, said, monkeypatch, capsys):
    counting_program(program)
    with pytest.raises(CountingFailed, match=said):
        count_instructions(["a", "b"])
    monkeypatch.setattr(cli, "chosen_rows", lambda options: [Row(name, name, None, None) for name in "ab"])
    assert main(["--instructions", "--no-times"]) == 2
    assert said in capsys.readouterr().err


def test_each_row_is_counted_in_a_fork_and_a_failure_fails_all(monkeypatch, capfd):
    def failing():
        raise ValueError("no such thing")

    rows = [Row("good", "", int, int), Row("bad", "", failing, failing)]
    monkeypatch.setattr(counting, "ROWS", rows)
    monkeypatch.setattr(counting, "load", lambda row: None)
    monkeypatch.setattr(counting, "count", lambda make, clock: make() + os.getppid())
    monkeypatch.setattr(counting, "Instructions", lambda *arguments: type("Clock", (), {"start": lambda self: None})())
    threads = torch.get_num_threads()
    try:
        assert counting.main("library", "folder", "1", "good") == 0
        assert counting.main("library", "folder", "2", "good", "bad") == 1
    finally:
        torch.set_num_threads(threads)
    out, err = capfd.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [["good", os.getpid(), os.getpid()]] * 2
    assert "bad: Traceback" in err
    assert "ValueError: no such thing" in err


def test_two_runs_have_the_same_environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    environment = run.environment()
    assert (environment["PYTHONHASHSEED"], environment["OMP_NUM_THREADS"]) == ("0", "1")
    assert str(run.ROOT) in environment["PYTHONPATH"].split(os.pathsep)


# --- Finding valgrind -----------------------------------------------------------------------------


@pytest.fixture
def without_valgrind(monkeypatch):
    """valgrind isn't there until apt-get installs it; the commands that are run are returned."""
    commands, there = [], []

    def execute(command, **options):
        commands.append(" ".join(command))
        there.extend(["valgrind"] * (command[1] == "install"))
        return subprocess.CompletedProcess(command, 0)

    which = {"apt-get": "/usr/bin/apt-get"}
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name in [*which, *there] else None)
    monkeypatch.setattr(finding.subprocess, "run", execute)
    return commands


def test_root_installs_valgrind(without_valgrind, monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert find_valgrind() == "/usr/bin/valgrind"
    assert without_valgrind == ["apt-get update -qq", "apt-get install -yqq valgrind"]
    assert capsys.readouterr().err == "installing valgrind ...\n"


def test_others_are_told_what_is_missing(without_valgrind, monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Unavailable, match="which is not installed: apt-get install valgrind"):
        find_valgrind()
    assert without_valgrind == []
    monkeypatch.setattr(run, "compile_requests", lambda folder: "requests.so")
    assert main(["--instructions", "--rows", "chain"]) == 2
    assert capsys.readouterr().err.count("which is not installed: apt-get install valgrind") == 1


def test_where_apt_get_fails_valgrind_is_missing(without_valgrind, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(finding.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 100))
    with pytest.raises(Unavailable):
        find_valgrind()


def test_a_compiler_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(finding, "find_compiler", lambda: None)
    with pytest.raises(Unavailable, match="takes a C"):
        compile_requests(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(finding, "SOURCE", tmp_path / "missing.cpp")
    with pytest.raises(Unavailable, match=r"missing\.cpp does not compile"):
        compile_requests(tmp_path)


# --- The ratios that are checked in ---------------------------------------------------------------


def outcome_of(ratios, torch_version="2.13.0+cpu", python="3.11.7"):
    rows = [Row(name, name, None, None, is_checked=not name.startswith("torch")) for name in ratios]
    outcome = to_json(rows, counts={name: Count(1000, 1000 * ratio) for name, ratio in ratios.items()})
    outcome["machine"].update(torch=torch_version, python=python)
    return outcome


HERE = "torch 2.13, Python 3.11"


def test_ratios_are_written_by_torch_and_python_and_others_stay(tmp_path):
    file = tmp_path / "ratios.json"
    baseline.update([outcome_of({"chain": 0.5, "many": 0.33333, "torch_nan": 8})], file)
    assert json.loads(file.read_text()) == {HERE: {"chain": 0.5, "many": 0.333}}
    baseline.update([outcome_of({"many": 0.3}), outcome_of({"many": 0.6}, "2.15.1", "3.12.0")], file)
    expected = {HERE: {"chain": 0.5, "many": 0.3}, "torch 2.15, Python 3.12": {"many": 0.6}}
    assert json.loads(file.read_text()) == expected


@pytest.mark.parametrize(
    "ratios, wrong",
    [
        ({"chain": 0.5, "many": 0.3}, []),
        ({"chain": 0.519}, []),
        ({"chain": 0.1}, []),
        ({"chain": 0.521, "many": 0.3}, [f"{HERE}: chain has risen from 0.500 to 0.521"]),
        (
            {"chain": 9.0, "many": 0.4},
            [f"{HERE}: chain has risen from 0.500 to 9.000", f"{HERE}: many has risen from 0.300 to 0.400"],
        ),
        ({"new": 0.1}, [f"{HERE}: new is not in ratios.json; --update writes it"]),
        ({"torch_nan": 99.0}, []),
    ],
)
def test_what_has_risen_is_named(tmp_path, ratios, wrong):
    file = tmp_path / "ratios.json"
    baseline.update([outcome_of({"chain": 0.5, "many": 0.3})], file)
    assert baseline.check([outcome_of(ratios)], file) == (wrong, [])


def test_where_nothing_is_checked_in_that_is_said(tmp_path):
    file = tmp_path / "ratios.json"
    said = "torch 2.12, Python 3.11: ratios.json has nothing to compare with; --update writes it"
    assert baseline.check([outcome_of({"chain": 0.5}, "2.12.1")], file) == ([], [said])


def test_the_file_has_every_row_of_torch_2_13():
    ratios = baseline.read()
    # Stock torch takes keyword arguments from 2.13 on.
    rows_here = {*CHECKED, "keywords", "forward_keywords"}
    assert set(ratios[HERE]) == rows_here
    for rows in ratios.values():
        assert set(rows) <= rows_here
        assert all(0 < ratio < 3 for ratio in rows.values())


# --- The command ----------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """The command with these counts, and a file of ratios for it."""
    for name in ("check", "risen", "update"):
        monkeypatch.setattr(baseline, name, partial(getattr(baseline, name), file=tmp_path / "ratios.json"))
    ratios = {}

    def count(names, on_row):
        return {name: Count(40_000, 40_000 * ratios[name]) for name in names}

    monkeypatch.setattr(cli, "count_instructions", count)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)

    def command(*arguments, **counts):
        ratios.update(counts)
        return main(["--instructions", "--no-times", "--rows", *counts, *arguments])

    return command


def test_check_fails_where_a_ratio_rises(counted, capsys):
    assert counted("--update", chain=0.5, many=0.3) == 0
    assert counted("--check", chain=0.51, many=0.3) == 0
    capsys.readouterr()
    assert counted("--check", chain=0.53, many=0.3) == 1
    err = capsys.readouterr().err
    assert "chain has risen from 0.500 to 0.530" in err
    assert "many" not in err
    # Without --check it only shows.
    assert counted(chain=0.53, many=0.3) == 0
    # With --update what is written is good from then on.
    assert [counted("--check", "--update", chain=0.53, many=0.3) for _ in range(2)] == [1, 0]


def test_what_seems_to_have_risen_is_counted_again(counted, monkeypatch, capsys):
    def counting(*ratios):
        """Count with these ratios, one count after the other."""
        left, asked = list(ratios), []

        def count(names, on_row):
            asked.append(names)
            now = left.pop(0)
            return {name: Count(40_000, 40_000 * now[name]) for name in names}

        monkeypatch.setattr(cli, "count_instructions", count)
        return asked

    def run(*arguments):
        return main(["--instructions", "--no-times", "--rows", "chain", "many", *arguments])

    counted("--update", chain=0.5, many=0.3)
    high, low, higher = {"chain": 0.53, "many": 0.3}, {"chain": 0.51}, {"chain": 0.54}
    asked = counting(high, low)
    assert run("--check") == 0
    assert asked == [["many", "chain"], ["chain"]]
    capsys.readouterr()
    asked = counting(high, higher, higher)
    assert run("--check") == 1
    assert len(asked) == cli.COUNTS
    assert "chain has risen from 0.500 to 0.530" in capsys.readouterr().err  # the lowest of the three
    # Nobody asked what has risen.
    asked = counting(high)
    assert run() == 0
    assert len(asked) == 1


def test_check_passes_where_nothing_is_checked_in(counted, capsys):
    assert counted("--check", chain=0.5) == 0
    assert "nothing to compare with" in capsys.readouterr().err


def test_json_and_table_have_the_instructions(counted, capsys):
    assert counted("--json", identity=0.3, chain=0.4, mlp=0.5) == 0
    outcome = json.loads(capsys.readouterr().out)
    by_name = {row["name"]: row["instructions"] for row in outcome["rows"]}
    goals = goals_for(torch.__version__, INSTRUCTIONS)
    for name, ratio in (("identity", 0.3), ("chain", 0.4), ("mlp", 0.5)):
        goal = goals.get(name)
        met = None if goal is None else ratio <= goal
        expected = {"reference": 40_000, "ours": 40_000 * ratio, "ratio": ratio, "goal": goal, "met": met}
        assert by_name[name] == {**expected, "checked": True}
    assert "ratio" not in outcome["rows"][0]
    assert counted(identity=0.3) == 0
    line = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("identity "))
    assert line[:4] == ["identity", "40,000", "12,000", "0.300"]


def test_times_stand_beside_the_instructions(monkeypatch, capsys):
    monkeypatch.setattr(cli, "count_instructions", lambda names, _: {name: Count(40_000, 10_000) for name in names})
    threads = torch.get_num_threads()
    try:
        assert main(["--instructions", "--rounds", "2", "--block-ms", "0.01", "--rows", "many", "trace", "--json"]) == 0
    finally:
        torch.set_num_threads(threads)
    many, trace = json.loads(capsys.readouterr().out)["rows"]
    assert many["instructions"]["ratio"] == trace["instructions"]["ratio"] == 0.25
    assert many["ratio"] > 0
    assert "ratio" not in trace


def test_rows_that_take_too_long_to_be_timed_are_counted_only():
    def chosen(*arguments):
        return {row.name for row in cli.chosen_rows(cli.parse_options(arguments))}

    assert chosen("--instructions") == {row.name for row in ROWS}
    assert chosen("--instructions", "--check") == set(CHECKED)
    assert chosen("--instructions") - chosen() == {"trace"}
    assert chosen("--rows", "chain") == chosen("--instructions", "--rows", "chain") == {"chain"}


def test_instructions_are_those_of_the_cpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SystemExit):
        cli.parse_options(["--instructions", "--device", "cuda"])
    assert "leave --device out" in capsys.readouterr().err
