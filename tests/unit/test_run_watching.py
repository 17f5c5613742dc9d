# SPDX-License-Identifier: BSD-3-Clause
"""torch-ext run with --report, --html, --json, --anomaly and --strict: what is said, however the program ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import multiprocessing
import os
import signal
import sys
import threading
import time

import torch


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class Keeps(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.x = x
        return x * 1

    @staticmethod
    def backward(ctx, grad):
        return grad


def train(function=Double, calls=3):
    for _ in range(calls):
        function.apply(torch.ones(2, requires_grad=True)).sum().backward()


if __name__ == "__main__":
    exec(sys.argv[1])
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("watched") / "program.py"
    path.write_text(PROGRAM)
    return path


def run(program, options, code, cwd, **more):
    own = {name: value for name, value in os.environ.items() if not name.startswith(("TORCH_EXT", "RANK", "WORLD"))}
    done = subprocess.run(
        [sys.executable, "-m", "torch_ext", "run", *options, program, code],
        cwd=cwd,
        env={**own, "PYTHONPATH": str(ROOT), **more},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def calls(path):
    return {each["name"]: each["forward"]["calls"] for each in json.loads(path.read_text())["functions"]}


# --- Ends -------------------------------------------------------------------------------------------

ENDS = {
    "train(); print('end')": 0,
    "train(); sys.exit(3)": 3,
    "train(); 1 / 0": 1,
    "train(); raise KeyboardInterrupt": -2,
    "train(); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)": -15,
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); train(); os.kill(os.getpid(), 15); time.sleep(60)": 5,
    "threading.Thread(target=lambda: (time.sleep(0.3), train())).start()": 0,
    "import atexit; atexit.register(train)": 0,
}


@pytest.mark.parametrize("code", ENDS)
def test_the_report_comes_however_the_program_ends(program, code, tmp_path):
    options = ("--report", "--json", "r.json", "--html", "r.html")
    status, printed, errors = run(program, options, code, tmp_path)
    assert status == ENDS[code]
    assert printed == ("end\n" if "print" in code else "")
    assert "1 custom Function in " in errors
    assert max(map(len, errors[errors.index("1 custom Function in ") :].splitlines())) <= 80
    assert "torch_ext_cli" not in errors
    assert calls(tmp_path / "r.json") == {"Double": 3}
    assert "</html>" in (tmp_path / "r.html").read_text()


def test_files_alone_print_nothing(program, tmp_path):
    done = run(program, ("--json", "r.json"), "os.chdir('/'); train(calls=2)", tmp_path)
    assert done == (0, "", "")
    assert calls(tmp_path / "r.json") == {"Double": 2}


def test_a_file_that_cannot_be_written_is_one_line(program, tmp_path):
    status, printed, errors = run(program, ("--json", "r.json"), "train(); os.mkdir('r.json')", tmp_path)
    assert (status, printed) == (0, "")
    assert errors == f"torch-ext run: {tmp_path / 'r.json'} can't be written: Is a directory\n"


def test_a_stderr_that_is_closed_changes_nothing(program, tmp_path):
    code = "train(Keeps); print(1, flush=True); os.close(2); sys.stderr = None"
    assert run(program, ("--report", "--strict", "--json", "r.json"), code, tmp_path)[:2] == (0, "1\n")
    assert calls(tmp_path / "r.json") == {"Keeps": 3}


# --- Processes --------------------------------------------------------------------------------------

CHILDREN = """
train(calls=1)
for calls, method in enumerate(("fork", "spawn", "forkserver"), start=2):
    child = multiprocessing.get_context(method).Process(target=train, args=(Double, calls))
    child.start()
    child.join()
multiprocessing.Pool(1).terminate()
"""


def test_each_process_has_a_report_of_its_own(program, tmp_path):
    # Where torch sees a GPU, its engine refuses backward in a child of a fork.
    status, _, errors = run(program, ("--report", "--json", "r.json"), CHILDREN, tmp_path, CUDA_VISIBLE_DEVICES="")
    assert status == 0
    assert calls(tmp_path / "r.json") == {"Double": 1}
    others = [path for path in tmp_path.iterdir() if path.name != "r.json"]
    assert sorted(calls(path)["Double"] for path in others) == [2, 3, 4]
    assert all(path.name == f"r.{json.loads(path.read_text())['process']}.json" for path in others)
    assert errors.count("custom Function in") == 4


ENDED_AT_ONCE = """
for _ in range(20):
    if not (child := os.fork()):
        time.sleep(5)
        os._exit(7)
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_that_is_ended_at_once_ends(program, tmp_path):
    """Python forgets the signals with a handler that came before its own work after a fork; Pool.terminate() waits."""
    status, printed, _ = run(program, ("--report",), ENDED_AT_ONCE, tmp_path)
    assert (status, printed.split()) == (0, ["-15"] * 20)


def test_ranks_write_files_of_their_own(program, tmp_path):
    for rank in "01":
        assert run(program, ("--json", "r.json"), "train()", tmp_path, RANK=rank, WORLD_SIZE="2")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.rank0.json", "r.rank1.json"]


# --- Advice and anomalies ---------------------------------------------------------------------------

FOUND = "torch-ext run: --strict has found 1 mistake in 1 custom Function\n"
NOT_FOUND = "torch-ext run: --strict has found no mistake\n"
STRICT = {
    ("--strict", "train(Keeps)"): (0, FOUND),
    ("--strict=error", "train(Keeps)"): (1, FOUND),
    ("--strict=error", "train(Keeps); sys.exit(4)"): (4, FOUND),
    ("--strict=error", "train()"): (0, NOT_FOUND),
}


@pytest.mark.parametrize("option,code", STRICT)
def test_advice_is_given_once_for_each_place(program, option, code, tmp_path):
    expected, line = STRICT[option, code]
    status, printed, errors = run(program, (option,), code, tmp_path)
    assert (status, printed) == (expected, "")
    assert errors.endswith(line)
    assert errors.count("FunctionWarning") == (line == FOUND)


def test_a_child_does_not_change_its_status(program, tmp_path):
    child = "multiprocessing.get_context('spawn').Process(target=train, args=(Keeps,))"
    code = f"child = {child}; child.start(); child.join(); print(child.exitcode)"
    status, printed, errors = run(program, ("--strict=error",), code, tmp_path)
    assert (status, printed) == (0, "0\n")
    assert errors.count("has found 1 mistake in 1 custom Function in process ") == 1
    assert errors.endswith(NOT_FOUND)


NAN = "x = torch.zeros(1, requires_grad=True); y = (x * 0).sqrt() * 0"
ANOMALY = {
    ("--anomaly", f"{NAN}; y.backward()"): "Function 'SqrtBackward0' returned nan values in its 0th output.",
    ("--anomaly=forward", "x = torch.ones(1, requires_grad=True); (x - 2).log()"): "LogBackward0",
    ("--anomaly=notes", f"{NAN}; y.backward(); print(x.grad)"): "",
}


@pytest.mark.parametrize("option,code", ANOMALY)
def test_anomaly_mode_is_on_for_the_whole_program(program, option, code, tmp_path):
    said = ANOMALY[option, code]
    status, printed, errors = run(program, (option,), code, tmp_path)
    assert status == (1 if said else 0)
    assert said in errors
    assert printed == ("" if said else "tensor([nan])\n")


# --- Comparing --------------------------------------------------------------------------------------

DIFFERS = """
class Differs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x + isinstance(ctx, torch_ext._C.Ctx)
    @staticmethod
    def backward(ctx, grad):
        return grad
"""
COMPARE = {
    "train()": (0, "__main__.Double"),
    f"import torch_ext\n{DIFFERS}\ntrain(Differs)": (1, "call 1: "),
}


@pytest.mark.parametrize("code", COMPARE, ids=range(len(COMPARE)))
def test_calls_are_compared_with_stock_torch(program, code, tmp_path):
    expected, said = COMPARE[code]
    status, printed, errors = run(program, ("--compare", "2"), code, tmp_path)
    assert (status, printed) == (expected, "")
    assert errors.startswith("torch-ext run: --compare with stock torch:\n")
    assert said in errors
