# SPDX-License-Identifier: BSD-3-Clause
"""torch-ext bench: what is called on which side, and what is printed. No figure is looked at."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import torch_ext
from torch_ext import _C, timing
from torch_ext.checking import Call
from torch_ext.checking import bench as benching
from torch_ext.checking.bench import Row, bench
from torch_ext.timing import Result
from torch_ext_cli.app import app
from torch_ext_cli.commands import bench as command

ROOT = Path(__file__).resolve().parents[2]
ROWS = ["forward", "overhead of forward", "forward and backward"]


def make(**methods):
    """A Function that notes which of its methods are called with what ctx."""
    seen = []

    def noting(name, method):
        def noted(*args, **kwargs):
            kind = next((type(each) for each in args if hasattr(each, "save_for_backward")), None)
            side = "ours" if kind is not None and issubclass(kind, _C.Ctx) else "stock"
            seen.append((name, "direct" if kind is benching._NoContext else side, torch.is_grad_enabled()))
            return method(*args, **kwargs)

        return staticmethod(noted)

    methods.setdefault("backward", lambda ctx, *grads: grads[0])
    cls = type("Timed", (torch.autograd.Function,), {name: noting(name, each) for name, each in methods.items()})
    return cls, seen


def time(cls, *args, **kwargs):
    """The names of the rows, and whether each has a node to compare with."""
    rows = bench(cls, Call(args, kwargs), rounds=2, block=1e-6)
    assert all(each.result.reference > 0 and each.result.ours > 0 for each in rows)
    assert not torch_ext.is_installed()
    return {each.name: each.node is not None for each in rows}


ALL = dict(zip(ROWS, (False, True, True), strict=True))


def test_both_sides_and_a_direct_call():
    cls, seen = make(forward=lambda ctx, x: (ctx.save_for_backward(x), x * 2)[1])
    assert time(cls, torch.ones(2)) == ALL
    assert {(name, side) for name, side, _ in seen} == {
        ("forward", "stock"),
        ("forward", "ours"),
        ("forward", "direct"),
        ("backward", "stock"),
        ("backward", "ours"),
    }
    # Not under grad mode: a call of forward within apply isn't either.
    assert {grad_mode for _, side, grad_mode in seen if side == "direct"} == {False}
    counts = [sum(1 for each in seen if each[:2] == ("backward", side)) for side in ("stock", "ours")]
    assert counts[0] == counts[1]


KINDS = {
    "setup_context": (
        {"forward": lambda x: x * 2, "setup_context": lambda ctx, inputs, output: ctx.save_for_backward(*inputs)},
        (torch.ones(2),),
        ALL,
    ),
    "a default": (
        {
            "forward": lambda x, n=2: x * n,
            "setup_context": lambda ctx, inputs, output: ctx.set_materialize_grads(False),
            "backward": lambda ctx, grad: (grad, None),
        },
        (torch.ones(2),),
        ALL,
    ),
    "in place": (
        {"forward": lambda ctx, x: (ctx.mark_dirty(x), x.mul_(2))[1]},
        (torch.ones(2),),
        ALL,
    ),
    "several outputs": (
        {"forward": lambda ctx, x: (x * 2, x * 3, 1), "backward": lambda ctx, *grads: grads[0]},
        (torch.ones(2),),
        ALL,
    ),
    "no gradient": (
        {"forward": lambda ctx, x: (y := x > 0, ctx.mark_non_differentiable(y))[0]},
        (torch.ones(2),),
        {"forward": False, "overhead of forward": True},
    ),
    "no tensor": ({"forward": lambda ctx, n: n + 1}, (1,), {"forward": False, "overhead of forward": False}),
    "what needs a gradient": (
        {"forward": lambda ctx, x: x * ctx.needs_input_grad[0]},
        (torch.ones(2),),
        ALL,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind):
    methods, args, expected = KINDS[kind]
    cls, _ = make(**methods)
    assert time(cls, *args) == expected
    assert all(torch.equal(each, torch.ones(2)) for each in args if isinstance(each, torch.Tensor))


def test_times_are_medians_and_the_overhead_is_a_difference(monkeypatch):
    taking = {"stock": 9e-6, "ours": 4e-6, "direct": 1e-6, "node": 2e-6}
    taking |= {f"{name}, backward": 10 * seconds for name, seconds in taking.items() if name != "direct"}
    rows = benching._rows({name: [seconds] * 3 for name, seconds in taking.items()})
    assert [(row.name, row.result.reference, row.result.ours, row.node) for row in rows] == [
        (ROWS[0], pytest.approx(9), pytest.approx(4), None),
        (ROWS[1], pytest.approx(8), pytest.approx(3), pytest.approx(2)),
        (ROWS[2], pytest.approx(90), pytest.approx(40), pytest.approx(20)),
    ]
    assert rows[1].result.ratio == pytest.approx(3 / 8)


def test_blocks_take_turns():
    calls = []
    blocks = [timing.Block(lambda name=name: calls.append(name), True, iter(range(1000)).__next__) for name in "ab"]
    rounds = list(timing.timed_rounds(dict.fromkeys(blocks, 4), 20))
    assert all(set(each) == set(blocks) for each in rounds)
    orders = {"".join(calls[start : start + 12]) for start in range(0, len(calls), 12)}
    assert orders == {"aaaaaabbbbbb", "bbbbbbaaaaaa"}


# --- The command ------------------------------------------------------------------------------------

NETS = """
import torch

class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad

class Raises(Square):
    @staticmethod
    def backward(ctx, grad):
        raise KeyError("no")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "nets_to_time.py").write_text(NETS)
    (tmp_path / "inputs.py").write_text("import torch\ninputs = [(torch.ones(3),), (torch.ones(4),)]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setenv("COLUMNS", "80")
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)
    for name in ("nets_to_time", "inputs", "nets"):
        sys.modules.pop(name, None)


def run(*arguments):
    """The exit code, stdout and the lines of stderr of a command."""
    result = CliRunner().invoke(app, ["bench", *arguments], catch_exceptions=False)
    return result.exit_code, result.stdout, [line for line in result.stderr.splitlines() if line.strip()]


def test_table(folder, monkeypatch):
    result = Result(4.7312, 1.604, 0.339, (0.33, 0.352))
    rows = [Row(ROWS[0], result, None), Row(ROWS[1], result, 0.8)]
    monkeypatch.setattr(benching, "bench", lambda *_, **__: rows)
    code, out, _ = run("nets_to_time:Square", "--inputs", "inputs.py")
    assert code == 0
    cells = [re.split(r"\s*│\s*", line)[1:-1] for line in out.splitlines() if line.startswith("│")]
    assert (
        cells
        == [
            [ROWS[0], "4.73", "1.60", "0.34", "0.33-0.35", ""],
            [ROWS[1], "4.73", "1.60", "0.34", "0.33-0.35", "0.80"],
        ]
        * 2
    )
    assert "nets_to_time.Square(float32[3] with gradient)\n" in out
    assert f"microseconds; torch {torch.__version__}, cpu, 1 CPU thread\n" in out
    assert out.endswith(command._LEGEND + "\n")
    assert max(map(len, out.splitlines())) <= 80


def test_json(folder):
    code, out, _ = run("nets_to_time.py:Square", "--inputs", "inputs.py", "--rounds", "2", "--json")
    outcome = json.loads(out)
    assert code == 0
    assert (outcome["function"], outcome["device"], outcome["threads"]) == ("nets_to_time.Square", "cpu", 1)
    assert [each["inputs"] for each in outcome["results"]] == [f"float32[{n}] with gradient" for n in (3, 4)]
    assert [row["name"] for row in outcome["results"][0]["rows"]] == ROWS


def test_calls_of_a_program(folder):
    (folder / "program.py").write_text("import torch, nets_to_time as nets\nnets.Square.apply(torch.ones(2))")
    code, out, _ = run("nets_to_time:Square", "--script", "program.py", "--rounds", "2")
    assert code == 0
    assert out.startswith("nets_to_time.Square(float32[2] with gradient)\n")


@pytest.mark.parametrize(
    "function, options, code, said",
    [
        ("Square", (), 2, "say what to call it with: --inputs FILE.py or --script PROGRAM.py"),
        (
            "Cube",
            ("--inputs", "inputs.py"),
            2,
            "nets_to_time has no Cube; its Functions are Square, Raises",
        ),
        ("Raises", ("--inputs", "inputs.py"), 1, "nets_to_time:Raises raises KeyError: 'no'"),
        ("Square", ("--inputs", "inputs.py", "--device", "tpu"), 2, "--device is cpu or cuda, got 'tpu'"),
        (
            "Square",
            ("--inputs", "inputs.py", "--device", "meta"),
            2,
            "--device is cpu or cuda, got 'meta'",
        ),
    ],
)
def test_wrong_use_is_one_line(folder, function, options, code, said):
    assert run(f"nets_to_time:{function}", *options) == (code, "", [f"torch-ext bench: {said}"])


def test_without_a_gpu(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, errors = run("nets_to_time:Square", "--inputs", "inputs.py", "--device", "cuda")
    assert (code, out, errors) == (1, "", [f"torch-ext bench: torch {torch.__version__} sees no GPU"])


def test_the_page_shows_what_is_printed(folder):
    page = (ROOT / "docs/commands.md").read_text()
    for name in ("nets.py", "inputs.py"):
        (text,) = re.findall(rf"`{name}`\n\n```python\n(.*?)```", page, re.DOTALL)
        (folder / name).write_text(text)
    (shown,) = re.findall(r"`torch-ext bench .*` prints, .*?```text\n(.*?)```", page, re.DOTALL)
    code, out, errors = run("nets.py:Spike", "--inputs", "inputs.py", "--rounds", "2")
    assert (code, errors) == (0, [])
    assert without_figures(out) == without_figures(shown)


def without_figures(text):
    text = re.sub(r"\d+\.\d+(-\d+\.\d+)?|torch \S+, cpu", "#", text)
    return re.sub(r"[ ━─]+", " ", text)


def test_help_is_readable(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("--help")
    assert code == 0
    assert "torch-ext bench nets.py:Spike --inputs inputs.py" in out
    assert max(map(len, out.splitlines())) <= 80
