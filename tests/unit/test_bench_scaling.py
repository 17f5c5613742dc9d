# SPDX-License-Identifier: BSD-3-Clause
"""The benchmark of threads: what it runs, how it judges, and what its command prints."""

import json
import threading

import pytest
import torch

import torch_ext
from tools.bench import scaling
from tools.bench.rows import identity_function


@pytest.fixture(autouse=True)
def one_thread_for_operators(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)


def outcome_of(gil=False, cores=2, **classes):
    """An outcome with these throughputs: by number of threads, stock's and ours."""
    parts = {
        title: [
            {"threads": count, "reference": stock, "ours": ours}
            for count, (stock, ours) in zip((1, 2, 4), each, strict=False)
        ]
        for title, each in classes.items()
    }
    return {"gil": gil, "cores": cores, "classes": parts}


@pytest.mark.parametrize("base", scaling.BASES.values(), ids=list(scaling.BASES))
def test_a_chain_runs_forward_and_backward(base):
    called = []

    class Counts(base):
        @staticmethod
        def forward(ctx, x):
            called.append("forward")
            return x

        @staticmethod
        def backward(ctx, grad):
            called.append("backward")
            return grad

    scaling.chain_of(Counts).call()
    assert called == ["forward"] * scaling.CHAIN + ["backward"] * scaling.CHAIN


def test_each_thread_runs_its_own_work_at_the_same_time():
    seen = [set() for _ in range(3)]
    everybody = threading.Barrier(3)

    def run(index):
        if not seen[index]:
            everybody.wait()  # passes only if three threads are in it
        seen[index].add(threading.get_ident())

    assert scaling.throughput([lambda index=index: run(index) for index in range(3)], 0) > 0
    assert [len(each) for each in seen] == [1, 1, 1]
    assert len(set().union(*seen)) == 3


def test_all_is_measured_on_both_sides(monkeypatch):
    bases, threads = [], []
    monkeypatch.setattr(scaling, "identity_function", lambda base: bases.append(base) or identity_function(base))
    monkeypatch.setattr(scaling, "throughput", lambda runs, seconds: threads.append(len(runs)) or 10.0 * len(runs))
    measured = scaling.measure_scaling([1, 2], "a class each", rounds=2, seconds=1)
    assert measured == [{"threads": n, "reference": 10.0 * n, "ours": 10.0 * n} for n in (1, 2)]
    assert sorted(threads) == [1] * 6 + [2] * 6
    assert {bases.count(base) for base in (torch.autograd.Function, torch_ext.Function)} == {1 + 1 + 2}


@pytest.mark.parametrize(
    "outcome, met",
    [
        (outcome_of(a=[(10, 20), (11, 36)]), (True, True)),
        (outcome_of(a=[(10, 20), (11, 35)]), (False, True)),
        (outcome_of(a=[(10, 20), (11, 40)], b=[(10, 20), (11, 35)]), (False, True)),
        (outcome_of(a=[(10, 20), (41, 40)]), (True, False)),
        (outcome_of(a=[(21, 20), (22, 40)]), (True, False)),
        (outcome_of(gil=True, a=[(10, 20), (11, 20)]), (None, None)),
        (outcome_of(cores=1, a=[(10, 20), (11, 20)]), (None, None)),
        (outcome_of(a=[(10, 20)]), (None, None)),
    ],
)
def test_what_is_met(outcome, met):
    assert tuple(scaling.judge(outcome).values()) == met


def test_the_command(tmp_path, monkeypatch, capsys):
    command = ["--threads", "2", "--rounds", "1", "--seconds", "0.001"]
    assert scaling.main([*command, "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert [each["threads"] for each in outcome["classes"]["one class"]] == [1, 2]
    assert list(outcome["classes"]) == list(scaling.CLASSES)
    assert outcome["gil"] is scaling.has_gil()
    file = tmp_path / "outcome.json"
    shown = {**outcome_of(**{"one class": [(10, 20), (11, 35)], "a class each": [(10, 20), (12, 40)]})}
    met = scaling.judge(shown)
    file.write_text(json.dumps({**outcome, **shown, "met": met}))
    monkeypatch.setattr(scaling, "measure_all", None)
    assert scaling.main(["--from-json", str(file), "--check", "--plots", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "Chains of 50 nodes, one class" in out
    assert "1.75" in out
    assert "two threads do at least 1.8 times what one does: missed" in out
    assert "never below stock torch: met" in out
    assert "<svg" in (tmp_path / "scaling.svg").read_text()


@pytest.mark.parametrize("arguments", [["--threads", "0"], ["--rounds", "0"], ["--seconds", "0"]])
def test_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit):
        scaling.parse_options(arguments)
    assert "needed: at least 1 thread, 1 round and some time" in capsys.readouterr().err
