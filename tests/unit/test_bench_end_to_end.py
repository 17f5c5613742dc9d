# SPDX-License-Identifier: BSD-3-Clause
"""The end-to-end benchmark: what is trained, that both sides train the same, and what the command prints."""

import json
import subprocess
from time import perf_counter, process_time

import pytest
import torch

import torch_ext
from tools.bench.end_to_end import __main__ as command
from tools.bench.end_to_end.measure import Turn, measure
from tools.bench.end_to_end.processes import measure_in_processes
from tools.bench.end_to_end.programs import PROGRAMS, Program

ALONE = [program for program in PROGRAMS if program.processes == 1]
# Calls of custom Functions in a step.
CALLS = {"demo": 50, "quantised_mlp": 12, "checkpoint": 4, "ddp": 12}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("program", ALONE, ids=lambda program: program.name)
def test_a_program_trains_the_same_on_both(program):
    stock, ours = program.make(), program.make()
    losses = [float(stock()) for _ in range(3)]
    with torch_ext.installed(), torch_ext.profile.record(stock=False) as record:
        assert [float(ours()) for _ in range(3)] == losses
    assert len(set(losses)) == 3
    functions = record.report.functions
    assert sum(each.forward.calls for each in functions) == 3 * CALLS[program.name]
    assert sum(each.backward.calls for each in functions) == 3 * CALLS[program.name]


def program_of(step, processes=1):
    return Program("tried", "a program that is tried", lambda: step, processes)


def test_both_sides_take_as_many_steps():
    seen = []

    def step():
        seen.append(torch_ext.is_installed())
        return 1.0

    outcome = measure(program_of(step), rounds=3, steps=4)
    # The last turn, in which Functions are counted, is torch_ext's alone.
    timed = seen[: -3 * 4]
    assert timed.count(True) == timed.count(False) == 3 * (4 + 4 // 4 + 1)
    assert seen[-3 * 4 :] == [True] * 12
    assert (outcome["name"], outcome["calls"], outcome["share"]) == ("tried", 0, 0)
    assert {"reference", "ours", "ratio", "quartiles", "title"} < set(outcome)
    assert not torch_ext.is_installed()


@pytest.mark.parametrize("name", ["quantised_mlp", "checkpoint"])
def test_functions_are_counted_by_step(name):
    (program,) = (program for program in PROGRAMS if program.name == name)
    outcome = measure(program, rounds=2, steps=1)
    assert outcome["calls"] == CALLS[name]
    assert 0 < outcome["share"] < 1


def test_another_loss_is_no_outcome():
    step = program_of(lambda: 2.0 if torch_ext.is_installed() else 1.0)
    with pytest.raises(RuntimeError, match=r"^tried: the loss is 1\.0 on stock torch, 2\.0 on ours$"):
        measure(step, rounds=2, steps=1)


def test_processes_that_wait_for_each_other_are_timed_in_real_time():
    clocks = [Turn(program_of(lambda: 0.0, processes), torch_ext.installed)._timer.timer for processes in (1, 2)]
    assert clocks == [process_time, perf_counter]


def test_two_processes_train_together():
    (program,) = (program for program in PROGRAMS if program.processes == 2)
    outcome = measure_in_processes(program, rounds=2, steps=1)
    assert (outcome["name"], outcome["calls"]) == ("ddp", CALLS["ddp"])
    assert outcome["reference"] > 0 and outcome["ours"] > 0


def test_a_process_that_fails_is_an_error(capfd):
    with pytest.raises(subprocess.CalledProcessError):
        measure_in_processes(Program("unknown", "", None, processes=1), rounds=2, steps=1)
    assert "ValueError" in capfd.readouterr().err


OUTCOME = {"reference": 2000.0, "ours": 1500.0, "ratio": 0.75, "quartiles": (0.7, 0.8), "calls": 12.0, "share": 0.256}


@pytest.fixture
def asked(monkeypatch):
    asked = []

    def measured(program, rounds, steps):
        asked.append((program.name, rounds, steps))
        return {"name": program.name, "title": program.title, **OUTCOME}

    monkeypatch.setattr(command, "measure", measured)
    monkeypatch.setattr(command, "measure_in_processes", measured)
    return asked


def test_the_command_prints_a_table(asked, capsys):
    assert command.main(["--quick"]) == 0
    assert asked == [(program.name, 5, 2) for program in PROGRAMS]
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert cells == [[program.name, "2.00", "1.50", "0.75", "0.70-0.80", "12", "26%"] for program in PROGRAMS]


def test_the_command_prints_json(asked, capsys):
    assert command.main(["--json", "--programs", "ddp", "demo", "--rounds", "7", "--steps", "3"]) == 0
    assert asked == [("demo", 7, 3), ("ddp", 7, 3)]
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["settings"] == {"rounds": 7, "steps": 3}
    assert [each["name"] for each in outcome["programs"]] == ["demo", "ddp"]
    assert outcome["machine"]["torch"] == torch.__version__


@pytest.mark.parametrize("arguments", [["--rounds", "1"], ["--steps", "0"], ["--programs", "none"]], ids=" ".join)
def test_wrong_options_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        command.parse_options(arguments)
    assert "error:" in capsys.readouterr().err
