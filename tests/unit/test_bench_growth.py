# SPDX-License-Identifier: BSD-3-Clause
"""The benchmark of growing work: what it measures, how it judges, and what its command prints."""

import json
import sys

import pytest
import torch

import torch_ext
from tools.bench import growth
from tools.bench.growth import BASES, bytes_per_node, first_of, judge, measure_growth
from tools.bench.memory import CAN_COUNT, in_process_that_counts
from tools.bench.rows.chains import identity_chain


def calls_of(name, call):
    """How often a Python function of that name is called in ``call()``."""
    seen = []
    sys.setprofile(lambda frame, event, _: seen.append((frame.f_code.co_name, event)))
    try:
        call()
    finally:
        sys.setprofile(None)
    return seen.count((name, "call"))


@pytest.mark.parametrize("base", BASES.values(), ids=list(BASES))
@pytest.mark.parametrize("nodes", [1, 10, 300])
def test_a_chain_has_its_nodes_forward_and_backward(base, nodes):
    probe = identity_chain(base, nodes)
    assert (probe.units, probe.floor) == (nodes, None)
    assert (calls_of("forward", probe.call), calls_of("backward", probe.call)) == (nodes, nodes)
    assert probe.call()[0].tolist() == [1.0] * 4


@pytest.mark.parametrize("base", BASES.values(), ids=list(BASES))
@pytest.mark.parametrize("count", [1, 2, 64])
def test_a_call_takes_its_tensors(base, count):
    probe = first_of(base, count)
    y = probe.call()
    assert [node is not None for node, _ in y.grad_fn.next_functions] == [True] * count
    assert issubclass(y.grad_fn._forward_cls, torch_ext.Function) is (base is torch_ext.Function)
    (x,) = {node.variable for node, _ in y.grad_fn.next_functions[:1]}
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [1.0] * 4
    with torch.no_grad():
        assert probe.floor().tolist() == y.tolist()


def test_all_sizes_are_measured_on_both_sides():
    measured = measure_growth("chain", identity_chain, (2, 5), rounds=2, seconds=1e-5)
    assert [each["size"] for each in measured] == [2, 5]
    for each in measured:
        assert each["reference"] > 0 and each["ours"] > 0 and each["ratio"] > 0


if CAN_COUNT:

    def test_memory_is_counted_by_node():
        sizes = in_process_that_counts("tools.bench.growth", "--bytes-of", "100", "400")
        for side in BASES:
            assert sizes["400"][side] == pytest.approx(sizes["100"][side], rel=0.1)
            # A node and a tensor.
            assert 200 < sizes["400"][side] < 5000


def test_nothing_is_left_of_a_chain_that_was_counted():
    made = []

    class Function(torch.autograd.Function):
        def __init_subclass__(cls):
            made.append(cls)

    bytes_per_node(Function, 10)
    assert len(made) == 1


# --- How it is judged -----------------------------------------------------------------------------

SIZES = (10, 100, 1_000, 10_000)
COUNTS = (1, 2, 4, 8, 64)


def figures(time=lambda n: 4, memory=lambda n: 1000, call=lambda n: 1 + 0.1 * n):
    """Figures of torch_ext; those of stock are the defaults, twice as large."""
    chains = [
        {"size": n, "reference": 8.0, "ours": time(n), "memory": {"reference": 2000, "ours": memory(n)}} for n in SIZES
    ]
    return chains, [{"size": n, "reference": 2 + 0.2 * n, "ours": call(n)} for n in COUNTS]


@pytest.mark.parametrize(
    "changed, missed",
    [
        ({}, set()),
        ({"time": lambda n: 4 * n**0.09}, set()),
        ({"time": lambda n: 4 * n**0.11}, {"time flat"}),
        ({"time": lambda n: 1 if n == 10 else 4}, set()),
        ({"memory": lambda n: 1000 * n**0.2}, {"memory flat"}),
        ({"call": lambda n: 1 + 0.101 * n}, {"slope"}),
        ({"call": lambda n: 5 + 0.1 * n}, set()),
        ({"call": lambda n: 1 + 0.1 * (n > 3)}, {"arguments linear"}),
    ],
    ids=["good", "nearly flat", "not flat", "short chains", "memory", "slope", "high but linear", "steps"],
)
def test_goals(changed, missed):
    judged = judge(*figures(**changed), version="2.13.0+cpu")
    assert {name for name, met in judged["met"].items() if met is False} == missed
    assert judged["slope_goal"] == 0.5 and judged["reference"]["argument_us"] == pytest.approx(0.2)


def test_other_releases_have_no_goal_for_the_slope():
    judged = judge(*figures(call=lambda n: 1 + n), version="2.15.0")
    assert judged["slope_goal"] is None and judged["met"]["slope"] is None
    assert judged["slope_ratio"] == pytest.approx(5)


# --- The command ----------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch):
    """What the command measures, which a test may change; and what it was asked for."""
    threads = torch.get_num_threads()
    asked = {}

    def measure_all(chains, arguments, rounds, seconds):
        asked.update(chains=chains, arguments=arguments, rounds=rounds, seconds=seconds)
        parts = figures(time=asked.get("time", lambda n: 4))
        parts = [[{**each, "ratio": each["ours"] / each["reference"]} for each in part] for part in parts]
        return {"machine": {}, "chains": parts[0], "arguments": parts[1], "growth": judge(*parts, "2.13.0")}

    monkeypatch.setattr(growth, "measure_all", measure_all)
    yield asked
    torch.set_num_threads(threads)


def test_the_command_prints_tables(measured, capsys):
    assert growth.main(["--check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert ["10,000", "8.00", "4.00", "0.50", "2,000", "1,000"] in cells
    assert ["64", "14.80", "7.40", "0.50"] in cells
    assert [line.rpartition(": ")[2] for line in lines if line.startswith("  ") and ":" in line][-4:] == ["met"] * 4
    assert (measured["chains"], measured["arguments"]) == (growth.CHAINS, growth.ARGUMENTS)
    assert (growth.CHAINS[0], growth.CHAINS[-1], growth.ARGUMENTS[0], growth.ARGUMENTS[-1]) == (10, 1_000_000, 1, 64)


def test_the_command_checks(measured, capsys):
    measured["time"] = lambda n: n
    assert growth.main([]) == 0
    assert growth.main(["--check"]) == 1
    assert "flat: at most 1.1: missed" in capsys.readouterr().out


def test_the_command_draws_and_prints_json(measured, capsys, tmp_path):
    assert growth.main(["--quick", "--json", "--plots", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["growth"]["met"]["time flat"] is True
    assert max(measured["chains"]) == 10_000 and measured["rounds"] == 3
    assert {path.name for path in tmp_path.iterdir()} == {"growth_chains.svg", "growth_arguments.svg"}


def test_wrong_options_are_refused(capsys):
    with pytest.raises(SystemExit):
        growth.parse_options(["--rounds", "1"])
    assert "at least 2 rounds" in capsys.readouterr().err
