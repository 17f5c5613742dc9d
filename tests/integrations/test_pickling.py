# SPDX-License-Identifier: BSD-3-Clause
"""Functions that travel to other processes, by reference and by value: what stock torch can send, torch_ext can.

what: a class, its bound apply, one with setup_context, a derived one and its apply, one with an apply of its own, the
backward class, the type of a node, a module, a partial, one in another, a closure, a list, and an importable class, its
apply and a partial of it

| how | when | sent from | received in |
| --- | --- | --- | --- |
| pickle | before the first call | stock torch | the same process |
| cloudpickle | after it | torch_ext installed | one without torch_ext |
| dill, with and without recurse | | the class accelerated | one that imported it |
| copy, deepcopy (same process only) | | torch_ext.Function | one that installed it |

Every combination is a row of the program sent_functions.py, and stock torch's outcome is what each has to be. loky and
multiprocessing's spawn have a test each, since they send in ways of their own.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

PROGRAM = pathlib.Path(__file__).with_name("sent_functions.py")
ROOT = PROGRAM.parents[2]
SENDERS = ("stock", "installed", "accelerated", "ours")
RECEIVERS = ("stock", "imported", "installed")


def run(*arguments):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sent")


@pytest.fixture(scope="module")
def sent(folder):
    """By sender, what came of sending and of receiving in the same process."""
    outcomes = {}
    for sender in SENDERS:
        (folder / sender).mkdir()
        outcomes[sender] = run(PROGRAM, "send", folder / sender, sender)
    return outcomes


@pytest.fixture(scope="module")
def received(folder, sent):
    """By receiver and sender, what each call gave, and whether it ran on torch_ext."""

    def receive(receiver):
        outcomes = {sender: {} for sender in SENDERS}
        for key, outcome in run(PROGRAM, "receive", folder, receiver).items():
            sender, row = key.split("/")
            outcomes[sender][row] = outcome
        return outcomes

    return {receiver: receive(receiver) for receiver in RECEIVERS}


def differences(outcomes, expected, sender):
    return {
        row: (outcomes.get(row), value)
        for row, value in expected.items()
        # The type of a node of torch_ext.Function is the one thing that can't be sent: docs/differences.md.
        if outcomes.get(row) != value and not (sender == "ours" and row.startswith("type of a node, "))
    }


def results(outcomes):
    return {row: value if isinstance(value, str) else value[0] for row, value in outcomes.items()}


def test_the_table_has_no_empty_row(sent, received):
    assert len(sent["stock"]) == 2 * 16 * 6
    arrived = {row for row, value in received["stock"]["stock"].items() if not isinstance(value[0], str)}
    assert {row.split(", ")[0] for row in arrived} == {row.split(", ")[0] for row in sent["stock"]}
    assert {row.split(", ")[1] for row in arrived} == {"pickle", "cloudpickle", "dill"}


@pytest.mark.parametrize("sender", SENDERS)
def test_sending_and_receiving_in_the_same_process(sent, sender):
    outcomes = sent[sender]
    for value in outcomes.values():
        if sender == "ours" and isinstance(value, list) and value[0] == ["torch_ext.function"]:
            value[0] = []  # its base, which has to be named
    assert not differences(outcomes, sent["stock"], sender)


@pytest.mark.parametrize("receiver", RECEIVERS)
@pytest.mark.parametrize("sender", SENDERS)
def test_receiving_in_another_process(received, sender, receiver):
    outcomes = results(received[receiver][sender])
    wrong = differences(outcomes, results(received["stock"]["stock"]), sender)
    if (sender, receiver) == ("ours", "stock"):  # torch_ext is what it needs, and it says so
        assert {outcome for outcome, _ in wrong.values()} == {"ModuleNotFoundError"}
    else:
        assert not wrong


@pytest.mark.parametrize("receiver, ours", [("stock", False), ("imported", False), ("installed", True)])
def test_a_class_runs_on_what_the_receiver_has(received, receiver, ours):
    for sender in "stock", "installed", "accelerated":
        runs = {row: value[1] for row, value in received[receiver][sender].items() if value[1] in (True, False)}
        assert len(runs) >= 8 and set(runs.values()) == {ours}, runs


def test_an_accelerated_class_stays_accelerated_in_its_own_process():
    assert run(PROGRAM, "send_to_oneself", ".", "accelerated") == {"the same class": True, "accelerated": True}


# --- Ways to send that have pools of their own ------------------------------------------------------

POOLS = {
    "loky": """
        from joblib.externals.loky import get_reusable_executor
        with get_reusable_executor(max_workers=1) as pool:
            results = [pool.submit(run, function).result() for function in (Double, Double.apply, Layer())]
    """,
    "joblib": """
        from joblib import Parallel, delayed
        results = Parallel(n_jobs=2, backend="loky")(delayed(run)(each) for each in (Double, Double.apply, Layer()))
    """,
    "spawn": """
        import multiprocessing
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            results = [pool.apply(run, (function,)) for function in (Double, Double.apply, Layer())]
    """,
}

SCRIPT = """
import functools, json, sys
import torch
{before}

class Double({base}):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2

class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.function = Double.apply

    def forward(self, x):
        return self.function(x)

def run(function):
    x = torch.ones(1, requires_grad=True)
    y = getattr(function, "apply", function)(x) if isinstance(function, type) else function(x)
    y.backward()
    return [y.item(), x.grad.item()]

if __name__ == "__main__":
    {after}
    for function in (Double, Double.apply, Layer()):
        run(function)
{pool}
    print(json.dumps(results))
"""


@pytest.mark.parametrize(
    "base, before, after",
    [
        ("torch.autograd.Function", "", "pass"),
        ("torch.autograd.Function", "import torch_ext", "torch_ext.install()"),
        ("torch.autograd.Function", "import torch_ext", "torch_ext.accelerate(Double)"),
        ("torch_ext.Function", "import torch_ext", "pass"),
    ],
    ids=SENDERS,
)
@pytest.mark.parametrize("pool", POOLS)
def test_pools_of_processes(tmp_path, pool, base, before, after):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(base=base, before=before, after=after, pool=POOLS[pool].replace("\n    ", "\n")))
    assert run(script) == [[2.0, 2.0]] * 3
