# SPDX-License-Identifier: BSD-3-Clause
"""The benchmark: what its rows are, what it compares, and what its command prints."""

import io
import itertools
import json
import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch
from rich.console import Console

import torch_ext
from tools.bench import __main__ as cli
from tools.bench import measure as measuring
from tools.bench import report
from tools.bench.__main__ import main, parse_options
from tools.bench.against import AgainstFailed, measure_with
from tools.bench.goals import GOALS, INSTRUCTIONS, goals_for
from tools.bench.measure import Result, Timed, measure
from tools.bench.memory import CAN_COUNT, measure_memory
from tools.bench.report import to_json, verdicts
from tools.bench.rows import CHAIN, DEPTH, ROWS, Probe, Row
from tools.bench.rows.integrations import LAYERS
from tools.bench.tables import legend, to_memory_table, to_table
from torch_ext import timing

ROOT = Path(__file__).parents[2]
NAMES = [row.name for row in ROWS]
TIMED = [row.name for row in ROWS if row.is_timed]


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


def row_of(name):
    (row,) = [row for row in ROWS if row.name == name]
    return row


def call_of(make):
    """What the call of a new probe returns, and the probe."""
    probe = make()
    with probe.context():
        return probe.call(), probe


def parts_of(result):
    """Plain tensors of a result, which may be a tuple, and nested."""
    results = result if isinstance(result, tuple) else (result,)
    return [part for x in results for part in (x.unbind() if x.is_nested else [x])]


OVERHEAD = [row for row in ROWS if row.title.startswith("overhead")]
WITHOUT_NODE = {"inputs_0", "no_input_grad", "no_grad", "inference_mode"}


@pytest.mark.parametrize("row", OVERHEAD, ids=lambda row: row.name)
def test_an_overhead_row_is_of_its_own_base_and_its_floor_gives_the_same(row):
    for make, expected in (row.reference, False), (row.ours, True):
        outputs, probe = call_of(make)
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        assert (first.grad_fn is None) is (row.name in WITHOUT_NODE)
        if first.grad_fn is not None:
            function = first.grad_fn._forward_cls
            assert issubclass(function, torch.autograd.Function)
            assert issubclass(function, torch_ext.Function) is expected
            leaf = first.grad_fn.next_functions[0][0].variable
            (gradient,) = torch.autograd.grad(first, leaf, torch.ones_like(first), allow_unused=True)
            assert (gradient is None) is (row.name == "jvp")
        with torch.no_grad(), probe.context():
            floor = probe.floor()
        assert type(floor) is type(outputs)
        if row.name != "mark_dirty":  # which counts on
            assert [x.tolist() for x in parts_of(floor)] == [x.tolist() for x in parts_of(outputs)]


@pytest.mark.parametrize("row", OVERHEAD, ids=lambda row: row.name)
def test_both_sides_of_an_overhead_row_give_the_same(row):
    stock, ours = ([x.tolist() for x in parts_of(call_of(make)[0])] for make in (row.reference, row.ours))
    assert stock == ours


def test_a_row_does_what_its_title_says():
    """A table: what only that row shows, on both sides."""

    def inputs_of(call):
        return len(call[0].grad_fn.next_functions)

    table = {
        **{f"inputs_{count}": (inputs_of, count) for count in (1, 2, 4, 8, 16, 64)},
        "mark_dirty": (lambda call: call[0]._version > 0 and call[0].grad_fn is not None, True),
        "non_diff": (lambda call: [x.requires_grad for x in call[0]], [True, False]),
        "no_input_grad": (lambda call: call[0].requires_grad, False),
        "no_grad": (lambda call: call[0].requires_grad, False),
        "inference_mode": (lambda call: call[0].is_inference(), True),
        "nested": (lambda call: call[0].is_nested, True),
    }
    for name, (look, expected) in table.items():
        row = row_of(name)
        assert [look(call_of(make)) for make in (row.reference, row.ours)] == [expected] * 2, name


def test_the_row_of_forward_ad_has_a_tangent():
    for make in (row_of("jvp").reference, row_of("jvp").ours):
        probe = make()
        with probe.context():
            assert torch.autograd.forward_ad.unpack_dual(probe.call()).tangent.tolist() == [2.0] * 4


@pytest.mark.parametrize(
    "name, calls",
    [
        ("chain", {"forward": CHAIN, "backward": CHAIN}),
        ("double_backward", {"forward": 2 * CHAIN, "backward": 2 * CHAIN}),
        ("tensor_hook", {"forward": CHAIN, "backward": CHAIN, "hook": CHAIN}),
        ("saved_hooks", {"forward": CHAIN, "backward": CHAIN, "same": 2 * CHAIN}),
        ("no_materialize", {"forward": CHAIN, "backward": CHAIN}),
    ],
)
def test_a_chain_runs_all_its_nodes_and_their_hooks(name, calls):
    for make in (row_of(name).reference, row_of(name).ours):
        probe, seen = make(), []
        with probe.context():
            sys.setprofile(lambda frame, event, _: seen.append((frame.f_code.co_name, event)))
            try:
                (grad,) = probe.call()
            finally:
                sys.setprofile(None)
        assert {called: seen.count((called, "call")) for called in calls} == calls
        assert probe.units == CHAIN
        assert grad.tolist() == [1.0] * 4


@pytest.mark.parametrize("name, nodes", [("custom_op", 1), ("compiled", LAYERS), ("trace", LAYERS)])
def test_a_row_under_install_runs_the_same_functions_with_it_and_without(name, nodes):
    row = row_of(name)
    for make, installed in (row.reference, False), (row.ours, True):
        probe = make()
        with probe.context():
            assert torch_ext.is_installed() is installed
            result = probe.call()  # before torch 2.13 a node is gone with its output
        assert not torch_ext.is_installed()
        node, functions = result.grad_fn, 0
        while node.next_functions:
            functions += isinstance(node, torch._C._FunctionBase)
            node = node.next_functions[0][0]
        assert functions == nodes


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
        with probe.context():
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


if CAN_COUNT:

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
    assert GOALS.keys() == INSTRUCTIONS.keys()
    for goals in (*GOALS.values(), *INSTRUCTIONS.values()):
        assert set(goals) <= set(NAMES)
    assert goals_for("2.13.0+cpu") == GOALS["2.13"]
    assert goals_for("2.15.1") == GOALS["2.15"]
    assert goals_for("2.13.0+cpu", INSTRUCTIONS) == INSTRUCTIONS["2.13"]
    assert goals_for("2.1.0") == {}


def outcome_of(version, monkeypatch, goals=None, **timed):
    """The outcome of rows of these ratios, with another torch."""
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(report, "GOALS", {".".join(version.split(".")[:2]): goals or {}})
    results = {name: Result(10, 10 * ratio, ratio, (ratio - 0.1, ratio + 0.1)) for name, ratio in timed.items()}
    return to_json([Row(name, f"a {name}", None, None) for name in timed], results)


def lines_of(table):
    """A table as it is printed where there are 80 columns, without the lines that rich draws."""
    console = Console(width=80, file=io.StringIO())
    console.print(table)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert all(len(line) <= 80 and "…" not in line for line in lines)
    return [line.split() for line in lines if line and "─" not in line]


def test_verdicts_compare_the_ratio_with_the_goal(monkeypatch):
    goals = {"met": 0.5, "missed": 0.49}
    outcome = outcome_of("2.13.0", monkeypatch, goals, met=0.5, missed=0.5, free=0.5)
    results = {name: Result(10, 5, 0.5, (0.4, 0.6)) for name in ("met", "missed", "free")}
    assert verdicts(results, goals) == {"met": True, "missed": False, "free": None}
    assert [row["met"] for row in outcome["rows"]] == [True, False, None]
    assert outcome["rows"][0]["per_second"] == {"reference": 1e5, "ours": 2e5}
    assert lines_of(to_table([outcome]))[2:] == [
        ["met", "10.00", "5.00", "0.50", "0.40-0.60", "0.50", "met"],
        ["missed", "10.00", "5.00", "0.50", "0.40-0.60", "0.49", "missed"],
        ["free", "10.00", "5.00", "0.50", "0.40-0.60"],
    ]


def test_two_environments_are_in_one_table(monkeypatch):
    outcomes = [
        outcome_of("2.13.0+cpu", monkeypatch, both=0.5, first=0.4),
        outcome_of("2.15.0", monkeypatch, both=0.7, second=0.6),
    ]
    assert [line[:2] for line in lines_of(to_table(outcomes))[2:]] == [
        ["both", "2.13"],
        ["2.15", "10.00"],
        ["first", "2.13"],
        ["second", "2.15"],
    ]


def test_the_longest_row_fits_into_80_columns(monkeypatch):
    longest = max(NAMES, key=len)
    outcomes = [outcome_of(version, monkeypatch, {longest: 0.5}, **{longest: 0.5}) for version in ("2.13.0", "2.15.0")]
    for outcome in outcomes:
        outcome["rows"][0].update(reference=123456.78, ours=123456.78)
    assert len(lines_of(to_table(outcomes))) == 4
    for outcome in outcomes:
        count = {"reference": 9_876_543.2, "ours": 987_654_321.0, "ratio": 100.0, "goal": 0.5, "met": False}
        outcome["rows"][0]["instructions"] = count
    assert lines_of(to_table(outcomes))[2] == [
        *[longest, "2.13", "9,876,543", "987.7", "M", "100.000", "0.50", "missed", "0.50"]
    ]


def test_steps_a_second_are_shown_of_steps():
    step = {"name": "step", "title": "a step", "is_step": True, "per_second": {"reference": 2000.0, "ours": 4000.0}}
    assert legend(step) == "step: a step; steps a second: 2,000, measured: 4,000"
    assert legend({**step, "is_step": False}) == "step: a step"


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tools.bench", *arguments], cwd=ROOT, capture_output=True, check=False, text=True
    )


def test_json_has_every_row():
    done = run("--json", "--rounds", "2", "--block-ms", "0.01")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert [row["name"] for row in outcome["rows"]] == TIMED
    goals = goals_for(torch.__version__)
    for row in outcome["rows"]:
        assert row["goal"] == goals.get(row["name"])
        assert len(row["quartiles"]) == 2
        assert {"reference", "ours", "ratio", "title", "met"} < set(row)
        assert "instructions" not in row
    assert outcome["machine"]["torch"] == torch.__version__
    assert outcome["machine"]["threads"] == 1
    assert outcome["machine"]["device"] == "cpu"
    assert outcome["settings"] == {"rounds": 2, "block_ms": 0.01}
    assert set(outcome["anomaly_memory"] or ()) == ({"shallow", "60 frames deeper"} if CAN_COUNT else set())


def test_json_has_what_another_interpreter_measured(one_thread, capsys):
    arguments = ["--json", "--rounds", "2", "--block-ms", "0.01", "--rows", "identity", "chain"]
    assert main([*arguments, "--against", sys.executable]) == 0
    outcome = json.loads(capsys.readouterr().out)
    (other,) = outcome.pop("against")
    assert other.keys() == outcome.keys()
    assert other["machine"] == outcome["machine"]
    assert [row["name"] for row in other["rows"]] == ["identity", "chain"]


@pytest.mark.parametrize("python", ["no/such/python", "/bin/false"])
def test_an_interpreter_that_does_not_run_the_benchmark_is_named(one_thread, python, monkeypatch, capsys):
    with pytest.raises(AgainstFailed, match=python):
        measure_with(python, [])
    monkeypatch.setattr(cli, "measure_here", lambda options: {})
    assert main(["--against", python]) == 2
    assert python in capsys.readouterr().err


def test_another_interpreter_is_asked_for_the_same(monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "measure_with", lambda *call: asked.append(call))
    cli.measure_there("py", parse_options(["--quick", "--threads", "2", "--rows", "chain", "many"]))
    cli.measure_there("py", parse_options(["--instructions", "--no-times"]))
    common = "--rounds {} --block-ms {} --threads {} --device cpu "
    assert [(python, " ".join(arguments)) for python, arguments in asked] == [
        ("py", common.format(20, 0.2, 2) + "--rows chain many"),
        ("py", common.format(200, 2.0, 1) + "--instructions --no-times"),
    ]


def test_without_rich_there_is_no_bar(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with cli.progress("measuring", 2) as advance:
        advance()


def test_table_has_the_rows_asked_for(one_thread, capsys):
    assert main(["--quick", "--rounds", "2", "--rows", "identity", "chain"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines() if re.search(r" \d\.\d\d-", line)] == ["identity", "chain"]
    assert f"torch {torch.__version__}" in " ".join(printed.split())


@pytest.mark.parametrize("ratio, status", [(0.001, 0), (1000.0, 1)])
def test_check_fails_where_a_goal_is_missed(one_thread, ratio, status, monkeypatch):
    result = Result(1.0, ratio, ratio, (ratio, ratio))
    monkeypatch.setattr(cli, "measure", lambda rows, *_: {row.name: result for row in rows})
    monkeypatch.setattr(report, "goals_for", lambda version, _: GOALS["2.13"])
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


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rows", "no_such_row"],
        ["--rounds", "1"],
        ["--block-ms", "0"],
        ["--no-times"],
        ["--update"],
        ["--rows", "trace"],
    ],
    ids=" ".join,
)
def test_wrong_options_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as exited:
        parse_options(arguments)
    assert exited.value.code == 2
    assert "error:" in capsys.readouterr().err
