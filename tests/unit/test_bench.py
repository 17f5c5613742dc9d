# SPDX-License-Identifier: BSD-3-Clause
"""The benchmark: what it counts, what it compares, and what its command prints."""

import itertools
import json
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch

import torch_ext
from tools.bench import __main__ as cli
from tools.bench import measure as measuring
from tools.bench.__main__ import main, parse_options
from tools.bench.goals import GOALS, goals_for
from tools.bench.measure import Result, Timed, measure
from tools.bench.memory import measure_memory
from tools.bench.report import legend, to_json, to_memory_table, to_table, verdicts
from tools.bench.rows import CHAIN, DEPTH, ROWS, Probe, Row
from torch_ext import timing

ROOT = Path(__file__).parents[2]
NAMES = [row.name for row in ROWS]


class Clock:
    """A CPU time that passes only when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def taking(self, seconds):
        def call():
            self.now += seconds

        return call


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "process_time", clock)
    return clock


@pytest.fixture
def one_thread():
    """The command sets the process's number of threads; this restores it."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_row_is_the_call_less_its_floor_by_unit(clock):
    row = Row(
        "row",
        "a row",
        reference=lambda: Probe(clock.taking(9e-6), clock.taking(1e-6), units=2),
        ours=lambda: Probe(clock.taking(2e-6)),
    )
    result = measure([row], rounds=3, seconds=1e-4)["row"]
    assert result.reference == pytest.approx(4)
    assert result.ours == pytest.approx(2)
    assert result.ratio == pytest.approx(0.5)
    assert result.quartiles == pytest.approx((0.5, 0.5))


def test_a_result_is_the_median_of_the_rounds():
    result = Result.of([(2e-6, 1e-6), (2e-6, 2e-6), (4e-6, 1e-6), (2e-6, 1e-6), (40e-6, 90e-6)])
    assert (result.reference, result.ours) == pytest.approx((2, 1))
    assert (result.ratio, result.quartiles) == (0.5, (0.5, 1.0))


def test_both_sides_of_a_row_are_called_equally_often():
    counts = {"reference": 0, "ours": 0, "floor": 0}

    def counting(name):
        def call():
            counts[name] += 1

        return call

    row = Row(
        "row",
        "a row",
        reference=lambda: Probe(counting("reference"), counting("floor")),
        ours=lambda: Probe(counting("ours")),
    )
    rounds = []
    measure([row], rounds=4, seconds=1e-4, on_round=lambda: rounds.append(dict(counts)))
    assert len(rounds) == 4
    for before, after in itertools.pairwise(rounds):
        assert len({after[name] - before[name] for name in counts}) == 1


def test_the_call_has_grad_mode_on_and_the_floor_has_not():
    seen = {"call": set(), "floor": set()}
    probe = Probe(
        lambda: seen["call"].add(torch.is_grad_enabled()),
        lambda: seen["floor"].add(torch.is_grad_enabled()),
    )
    timed = Timed(lambda: probe, torch.device("cpu"))
    for block in timed.blocks():
        block.run(2)
    assert seen == {"call": {True}, "floor": {False}}


def test_measuring_refuses_where_stock_is_not_stock():
    with torch_ext.installed(), pytest.raises(RuntimeError, match="torch_ext is installed"):
        measure(ROWS, rounds=2, seconds=1e-5)


@pytest.mark.parametrize("row", [row for row in ROWS if row.title.startswith("overhead")], ids=lambda row: row.name)
def test_an_overhead_row_makes_a_node_of_its_own_base(row):
    for make, expected in (row.reference, False), (row.ours, True):
        probe = make()
        outputs = probe.call()
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        function = first.grad_fn._forward_cls
        assert issubclass(function, torch.autograd.Function)
        assert issubclass(function, torch_ext.Function) is expected
        with torch.no_grad():
            floor = probe.floor()
        assert type(floor) is type(outputs)
        plain = floor[0] if isinstance(floor, tuple) else floor
        assert plain.tolist() == first.tolist()
        gradient = torch.autograd.grad(first.sum(), first.grad_fn.next_functions[0][0].variable)
        assert gradient[0].shape == first.shape


@pytest.mark.parametrize("name, hooks", [("hook_call", 1), ("node_hook_call", 2)])
def test_a_hook_row_calls_every_hook_and_its_floor_none(name, hooks):
    row = next(row for row in ROWS if row.name == name)
    calls = []

    for make in (row.reference, row.ours):
        probe = make()
        assert probe.units == CHAIN * hooks
        for backward, expected in (probe.call, CHAIN * hooks), (probe.floor, 0):
            calls.clear()
            sys.setprofile(lambda frame, event, _: calls.append((frame.f_code.co_name, event)))
            try:
                (grad,) = backward()
            finally:
                sys.setprofile(None)
            assert calls.count(("hook", "call")) == expected
            assert grad.tolist() == [1.0] * 4


def test_a_chain_runs_backward_through_all_its_nodes():
    chain = next(row for row in ROWS if row.name == "chain")
    for make in (chain.reference, chain.ours):
        probe = make()
        (grad,) = probe.call()
        assert probe.units == CHAIN
        assert grad.tolist() == [1.0] * 4


def test_the_mlp_is_of_the_base_and_learns_the_same_on_both():
    row = next(row for row in ROWS if row.name == "mlp")
    losses = []
    for make, expected in (row.reference, False), (row.ours, True):
        step = make().call
        losses.append([step() for _ in range(3)])
        node = losses[-1][0].grad_fn.next_functions[0][0].next_functions[0][0]
        assert issubclass(node._forward_cls, torch_ext.Function) is expected
    assert losses[0] == losses[1]
    assert losses[0][0] > losses[0][1] > losses[0][2]


@pytest.mark.parametrize("row", [row for row in ROWS if "_nan" not in row.name], ids=lambda row: row.name)
def test_a_row_keeps_to_the_device_it_is_made_on(row):
    # An operation on tensors of two devices is an error.
    for make in (row.reference, row.ours):
        with torch.device("meta"):
            probe = make()
        result = probe.call()
        results = result if isinstance(result, tuple) else (result,)
        assert {x.device.type for x in results if x is not None} <= {"meta"}


def test_on_a_gpu_time_is_read_when_the_work_is_done(monkeypatch):
    events = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append(str(device)))
    monkeypatch.setattr(timing, "perf_counter", lambda: events.append("read") or len(events))
    timed = Timed(lambda: Probe(lambda: events.append("call")), torch.device("cuda", 1))
    assert timed.call.run(2) == 6 - 2
    assert events == ["cuda:1", "read", "call", "call", "cuda:1", "read"]


def test_what_a_probe_makes_is_on_the_device_asked_for():
    made = []
    row = Row("row", "a row", *[lambda: made.append(torch.ones(1)) or Probe(lambda: None)] * 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "clock_of", lambda device: timing.process_time)
        measure([row], rounds=2, seconds=1e-5, device=torch.device("meta"))
    assert [x.device.type for x in made] == ["meta", "meta"]


ANOMALY_ROWS = [row for row in ROWS if "anomaly mode" in row.title]


@pytest.mark.parametrize("row", ANOMALY_ROWS, ids=lambda row: row.name)
def test_an_anomaly_row_trains_in_the_mode_that_its_name_says(row, monkeypatch):
    seen = []

    def step(self, *args):
        stack = "".join(traceback.format_stack())
        seen.append((torch.is_anomaly_enabled(), stack.count("in _one_deeper")))

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    made = []
    by_torch = "_nan" in row.name and "deferred" not in row.name
    forward = torch.nn.GELU.forward

    def watched(self, x):
        y = forward(self, x)
        made.append(type(y.grad_fn.metadata.get("traceback_")))
        assert not torch.is_anomaly_enabled() or torch.is_anomaly_check_nan_enabled() is by_torch
        return y

    monkeypatch.setattr(torch.nn.GELU, "forward", watched)
    row.reference().call()
    row.ours().call()
    assert [enabled for enabled, _ in seen] == [False, True]
    assert [deeper for _, deeper in seen] == [DEPTH // 2 if "_deep" in row.name else 0] * 2
    assert made[:12] == [type(None)] * 12
    assert made[12:] == [list if row.name.startswith("torch") else torch_ext._C.LazyTraceback] * 12


def test_memory_is_counted_for_both_modes_and_both_depths():
    memory = measure_memory()
    assert [set(modes) for modes in memory.values()] == [{"torch", "torch_ext"}] * 2
    shallow, deep = memory.values()
    assert 0 < shallow["torch_ext"] < shallow["torch"] < deep["torch"]
    assert 0 < deep["torch_ext"] < deep["torch"]
    cells = [list(column.cells) for column in to_memory_table(memory).columns]
    assert cells[0] == list(memory)
    assert cells[1] == [f"{modes['torch']:,}" for modes in memory.values()]


def test_goals_are_of_rows_and_by_torch_version():
    for goals in GOALS.values():
        assert set(goals) <= set(NAMES)
    assert goals_for("2.13.0+cpu") == GOALS["2.13"]
    assert goals_for("2.15.1") == GOALS["2.15"]
    assert goals_for("2.1.0") == {}


def test_verdicts_compare_the_ratio_with_the_goal():
    results = {name: Result(10, 5, 0.5, (0.4, 0.6)) for name in ("met", "missed", "free")}
    goals = {"met": 0.5, "missed": 0.49}
    assert verdicts(results, goals) == {"met": True, "missed": False, "free": None}
    rows = [Row(name, name, None, None) for name in results]
    assert [row["met"] for row in to_json(rows, results, goals, {})["rows"]] == [True, False, None]
    assert to_json(rows, results, goals, {})["rows"][0]["per_second"] == {"reference": 1e5, "ours": 2e5}
    assert list(to_table(rows, results, goals).columns[-1].cells) == [
        "[green]met[/]",
        "[red]missed[/]",
        "",
    ]


def test_steps_a_second_are_shown_of_steps():
    result = Result(500.0, 250.0, 0.5, (0.4, 0.6))
    assert legend(Row("step", "a step", None, None, is_step=True), result) == (
        "step: a step; steps a second: 2,000, measured: 4,000"
    )
    assert legend(Row("call", "a call", None, None), result) == "call: a call"


def test_json_has_every_row():
    command = [sys.executable, "-m", "tools.bench", "--json", "--rounds", "3", "--block-ms", "0.05"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert [row["name"] for row in outcome["rows"]] == NAMES
    goals = goals_for(torch.__version__)
    for row in outcome["rows"]:
        assert row["goal"] == goals.get(row["name"])
        assert len(row["quartiles"]) == 2
        assert {"reference", "ours", "ratio", "title", "met"} < set(row)
    assert outcome["machine"]["torch"] == torch.__version__
    assert outcome["machine"]["threads"] == 1
    assert outcome["machine"]["device"] == "cpu"
    assert outcome["settings"] == {"rounds": 3, "block_ms": 0.05}
    assert outcome["anomaly_memory"].keys() == {"shallow", "60 frames deeper"}


def test_table_has_the_rows_asked_for(one_thread, capsys):
    assert main(["--quick", "--rounds", "2", "--rows", "identity", "chain"]) == 0
    printed = capsys.readouterr().out
    lines = [line.split()[1] for line in printed.splitlines() if line.startswith("│")]
    assert lines == ["identity", "chain"]
    assert f"torch {torch.__version__}" in printed.replace("\n", " ")


@pytest.mark.parametrize("ratio, status", [(0.001, 0), (1000.0, 1)])
def test_check_fails_where_a_goal_is_missed(one_thread, ratio, status, monkeypatch):
    result = Result(1.0, ratio, ratio, (ratio, ratio))
    monkeypatch.setattr(cli, "measure", lambda rows, *_: {row.name: result for row in rows})
    monkeypatch.setattr(cli, "goals_for", lambda version: GOALS["2.13"])
    monkeypatch.setattr(cli, "measure_memory", lambda: {"shallow": {"torch": 2, "torch_ext": 1}})
    assert main(["--check"]) == status
    assert main([]) == 0


def test_on_a_gpu_there_are_no_goals(one_thread, monkeypatch, capsys):
    seen = []

    def measured(rows, rounds, seconds, on_round, device):
        seen.append(device)
        return {row.name: Result(1.0, 1000.0, 1000.0, (1000.0, 1000.0)) for row in rows}

    monkeypatch.setattr(cli, "measure", measured)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the GPU of {device}")
    assert main(["--check", "--device", "cuda", "--rows", "many", "mlp", "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert seen == [torch.device("cuda")]
    assert outcome["machine"]["device"].startswith("the GPU of cuda, CUDA")
    assert [(row["name"], row["goal"]) for row in outcome["rows"]] == [("many", None), ("mlp", None)]


@pytest.mark.parametrize(
    "device, message",
    [("cuda", f"torch {torch.__version__} sees no GPU"), ("meta", "cpu or cuda, not meta"), ("abacus", "abacus")],
)
def test_a_device_that_cannot_be_measured_is_refused(device, message, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        parse_options(["--device", device])
    assert message in capsys.readouterr().err


def test_quick_gives_defaults_that_options_override():
    assert (parse_options([]).rounds, parse_options([]).block_ms) == (200, 2.0)
    assert (parse_options(["--quick"]).rounds, parse_options(["--quick"]).block_ms) == (20, 0.2)
    assert parse_options(["--quick", "--rounds", "7"]).rounds == 7


@pytest.mark.parametrize("arguments", [["--rows", "no_such_row"], ["--rounds", "1"], ["--block-ms", "0"]], ids=" ".join)
def test_wrong_options_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as exited:
        parse_options(arguments)
    assert exited.value.code == 2
    assert "error:" in capsys.readouterr().err
