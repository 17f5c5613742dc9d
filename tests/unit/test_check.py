# SPDX-License-Identifier: BSD-3-Clause
"""torch-ext check: what is asked of a Function on both sides, where its calls come from, and what is printed."""

import gc
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from harness import torch_is_since
from torch.autograd.function import once_differentiable
from typer.testing import CliRunner

import torch_ext
from torch_ext import _C
from torch_ext.checking import QUESTIONS, Call, NotFoundError, check, find_class
from torch_ext_cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/commands.md"


def ours(ctx):
    """Whether a call runs on torch_ext."""
    return isinstance(ctx, _C.Ctx)


def make(base=torch.autograd.Function, **attributes):
    """A Function of these methods."""
    methods = {name: staticmethod(each) if callable(each) else each for name, each in attributes.items()}
    methods.setdefault("backward", staticmethod(lambda ctx, *grads: grads[0]))
    return type("Tried", (base,), {**methods, "__module__": __name__})


def save(ctx, x):
    ctx.save_for_backward(x)
    return x * x


def square_backward(ctx, grad):
    (x,) = ctx.saved_tensors
    return 2 * x * grad


def keep_all(ctx, inputs, output):
    ctx.save_for_backward(*inputs)
    ctx.save_for_forward(*inputs)


def only_float32(ctx, x):
    if x.dtype != torch.float32:
        raise TypeError(f"float32 only, not {x.dtype}")
    return x * 1


def keep_output(ctx, x):
    ctx.y = x * 2
    return ctx.y


def in_place(ctx, x):
    ctx.mark_dirty(x)
    return x.mul_(2)


def fail(*_):
    raise KeyError("not today")


kept = []


def leak(ctx, x):
    kept.append(x * 2)
    return x * 1


ALL = dict.fromkeys(QUESTIONS, "yes")
NONE = {"forward AD": "-", "vmap": "-"}  # what few Functions have

# A Function, and what is answered on both sides.
ALIKE = {
    "ctx": (make(forward=save, backward=square_backward), NONE),
    "everything": (
        make(
            forward=lambda x: x * x,
            setup_context=keep_all,
            backward=square_backward,
            jvp=square_backward,
            generate_vmap_rule=True,
        ),
        {"compile": "no"},  # torch.compile takes no jvp
    ),
    "a vmap of its own": (
        make(
            forward=lambda x: x * x,
            setup_context=keep_all,
            backward=square_backward,
            vmap=lambda info, dims, x: (x * x, 0),
        ),
        {"forward AD": "-"},
    ),
    "a wrong vmap": (
        make(forward=lambda x: x * 1, setup_context=lambda *_: None, vmap=lambda info, dims, x: (x * 2, 0)),
        {"forward AD": "-", "vmap": "no"},
    ),
    "a wrong jvp": (
        make(forward=lambda x: x * 1, setup_context=lambda *_: None, jvp=lambda ctx, t: t * 2),
        {"vmap": "-", "gradcheck": "no"},
    ),
    "vmap without setup_context": (
        make(forward=save, backward=square_backward, generate_vmap_rule=True),
        {"forward AD": "-", "vmap": "no"},
    ),
    "a wrong gradient": (make(forward=save), {**NONE, "gradcheck": "no"}),
    "once differentiable": (
        make(forward=save, backward=once_differentiable(square_backward)),
        {**NONE, "double gradients": "-"},
    ),
    "one dtype": (make(forward=only_float32), {**NONE, "gradcheck": "-"}),
    "changes its input": (make(forward=in_place, backward=lambda ctx, grad: grad * 2), NONE),
    "random numbers": (
        make(forward=lambda x: x + torch.rand(3), setup_context=lambda *_: None, generate_vmap_rule=True),
        {"forward AD": "-", "vmap": "yes"},
    ),
    "leaks until collected": (make(forward=keep_output, backward=lambda ctx, grad: grad * 2), {**NONE, "leaks": "no"}),
    "leaks for good": (make(forward=leak), {**NONE, "leaks": "no"}),
    "forward raises": (
        make(forward=fail),
        {
            **NONE,
            **dict.fromkeys(["outputs", "gradients", "double gradients", "compile", "leaks"], "no"),
            "gradcheck": "-",
        },
    ),
    "backward raises": (
        make(forward=save, backward=fail),
        {**NONE, **dict.fromkeys(["gradients", "double gradients", "gradcheck", "leaks"], "no")},
    ),
    "no gradient": (
        make(forward=lambda ctx, x: (y := x > 0, ctx.mark_non_differentiable(y))[0]),
        {**NONE, "gradients": "-", "double gradients": "-", "gradcheck": "-"},
    ),
    "torch_ext's": (make(torch_ext.Function, forward=save, backward=square_backward), NONE),
    "accelerated": (torch_ext.accelerate(make(forward=save, backward=square_backward)), NONE),
    "an apply of its own": (make(forward=save, backward=square_backward), NONE),
}
OWN_APPLY = ALIKE["an apply of its own"][0]
OWN_APPLY.apply = classmethod(lambda cls, x: super(OWN_APPLY, cls).apply(x))


@pytest.fixture(autouse=True)
def only_new_objects():
    """What the tests before have loaded, compilers among it, isn't looked at for leaks again and again."""
    gc.freeze()


@pytest.mark.parametrize("kind", ALIKE)
def test_alike(kind):
    cls, differing = ALIKE[kind]
    skip = () if kind in ("ctx", "everything") else ("compile",)  # which takes long
    result = check(cls, Call((torch.tensor([1.0, -2.0, 3.0]),), {}), skip)
    kept.clear()
    expected = {name: side for name, side in {**ALL, **differing}.items() if name not in skip}
    assert {each.question: each.stock for each in result.answers} == expected, result.answers
    assert [each for each in result.answers if not each.is_same] == []
    assert result.is_same
    assert result.holds == ("no" not in expected.values())
    assert all(each.stock_why for each in result.answers if each.stock != "yes")
    assert not torch_ext.is_installed()


# A Function, what isn't the same, and what is said of it.
DIFFERENT = {
    "values": (
        make(forward=lambda ctx, x: x + ours(ctx)),
        {"outputs"},
        ("output 0: element 0 and 2 more", "1.0", "2.0"),
    ),
    "gradients": (
        make(forward=lambda ctx, x: x * 1, backward=lambda ctx, grad: grad * (1 + ours(ctx))),
        {"gradients", "double gradients"},
        None,
    ),
    "forward": (make(forward=lambda ctx, x: fail() if ours(ctx) else x * 1), {"outputs", "gradients", "leaks"}, None),
    "leaks": (make(forward=lambda ctx, x: keep_output(ctx, x) if ours(ctx) else x * 2), {"leaks"}, None),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_different(kind):
    cls, questions, difference = DIFFERENT[kind]
    result = check(cls, Call((torch.tensor([1.0, -2.0, 3.0]),), {}), ("compile", "gradcheck"))
    assert questions <= {each.question for each in result.answers if not each.is_same}
    assert not result.is_same
    assert difference is None or difference in result.answers[0].differences


def test_arguments():
    cls = make(
        forward=lambda x, n, y: x[0] * n + y,
        setup_context=lambda *_: None,
        backward=lambda ctx, grad: (None, None, grad),
    )
    call = Call(([torch.ones(2)], 2.5), {"y": torch.zeros(2)})
    assert str(call) == "[tensor([1., 1.])], 2.5, y=float32[2] with gradient"
    result = check(cls, call, ("compile",))
    assert result.is_same
    assert result.answers[0].stock == ("yes" if torch_is_since("2.13") else "no")


# --- The command ------------------------------------------------------------------------------------

NETS = """
import torch, sys

class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad

class Wrong(Square):
    @staticmethod
    def backward(ctx, grad):
        return grad

class Ours(Square):
    @staticmethod
    def forward(ctx, x):
        from torch_ext import _C
        return Square.forward(ctx, x) + isinstance(ctx, _C.Ctx)

class Outer:
    Inner = Square
    Inner.__qualname__ = "Outer.Inner"

no_class = 3
class Other: pass
"""

QUICK = [word for name in QUESTIONS if name not in ("outputs", "gradients", "gradcheck") for word in ("--skip", name)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with Functions and inputs, in which commands run."""
    (tmp_path / "nets_to_check.py").write_text(NETS.replace('Inner.__qualname__ = "Outer.Inner"', "pass"))
    (tmp_path / "inputs.py").write_text("import torch\ninputs = [(torch.ones(3),)]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setenv("COLUMNS", "80")
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def run(*arguments):
    """The exit code, stdout and the lines of stderr of a command."""
    result = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
    assert not torch_ext.is_installed()
    return result.exit_code, result.stdout, [line for line in result.stderr.splitlines() if line]


@pytest.mark.parametrize(
    "target, options, code",
    [
        ("nets_to_check.py:Square", (), 0),
        ("nets_to_check:Square", (), 0),
        ("./nets_to_check.py:Outer.Inner", (), 0),
        ("nets_to_check:Wrong", (), 0),
        ("nets_to_check:Wrong", ("--strict",), 1),
        ("nets_to_check:Square", ("--strict",), 0),
        ("nets_to_check:Ours", (), 1),
    ],
)
def test_exit_codes(folder, target, options, code):
    result = run("check", target, "--inputs", "inputs.py", *QUICK, *options)
    assert result[0] == code
    assert result[2] == []


def test_what_is_printed(folder):
    _, out, _ = run("check", "nets_to_check:Ours", "--inputs", "inputs.py", *QUICK)
    assert out.startswith("nets_to_check.Ours(float32[3] with gradient)\n")
    rows = [re.split(r"\s*│\s*", line)[1:-1] for line in out.splitlines() if line.startswith("│")]
    assert rows == [
        ["outputs", "yes", "yes", "no"],
        ["gradients", "yes", "yes", "yes"],
        ["gradcheck", "yes", "yes", "yes"],
    ]
    assert "outputs: output 0: element 0 and 2 more: 1.0 on stock torch, 2.0 on torch_ext" in out
    assert max(map(len, out.splitlines())) <= 80


def test_json(folder):
    _, out, _ = run("check", "nets_to_check:Wrong", "--inputs", "inputs.py", *QUICK, "--json")
    (result,) = json.loads(out)
    assert (result["function"], result["inputs"]) == ("nets_to_check.Wrong", "float32[3] with gradient")
    assert [(each["question"], each["stock"], each["ours"], each["same"]) for each in result["answers"]] == [
        ("outputs", "yes", "yes", True),
        ("gradients", "yes", "yes", True),
        ("gradcheck", "no", "no", True),
    ]
    assert [each["kind"] for each in result["advice"]] == ["wrong-gradient"]


# (the class, the text of inputs.py or None for none, what is said)
WRONG = {
    "no colon": ("nets_to_check", "", "expected module:Class or file.py:Class, got 'nets_to_check'"),
    "no class": ("nets_to_check:", "", "expected module:Class or file.py:Class, got 'nets_to_check:'"),
    "no module": ("no_such_nets:Square", "", "cannot import no_such_nets: ModuleNotFoundError: No module named"),
    "no file": ("missing.py:Square", "", "there is no file missing.py"),
    "no attribute": (
        "nets_to_check:Sqare",
        "",
        "nets_to_check has no Sqare; its Functions are Square, Wrong, Ours",
    ),
    "no inner": ("nets_to_check:Outer.Not", "", "nets_to_check has no Outer.Not; its Functions are"),
    "an object": ("nets_to_check:no_class", "", "nets_to_check:no_class is no class: it is an object of type int"),
    "another class": ("nets_to_check:Other", "", "nets_to_check:Other is no subclass of torch.autograd.Function"),
    "the base": (
        "torch.autograd:Function",
        "",
        "torch.autograd:Function is the base class itself: name a subclass of it",
    ),
    "a module that raises": ("bad.py:A", "", "cannot import bad.py: ZeroDivisionError: division by zero (bad.py:2)"),
    "a syntax error": ("syntax.py:A", "", "cannot import syntax.py: SyntaxError: "),
    "a module that exits": ("exits.py:A", "", "cannot import exits.py: SystemExit: 3 (exits.py:2)"),
    "no inputs file": ("nets_to_check:Square", None, "there is no file inputs.py"),
    "no inputs": ("nets_to_check:Square", "a = 1", "inputs.py has no inputs: write inputs = [(x, y), ...], a list"),
    "empty inputs": ("nets_to_check:Square", "inputs = []", "inputs of inputs.py is empty"),
    "inputs of a wrong type": (
        "nets_to_check:Square",
        "inputs = [3]",
        "inputs[0] of inputs.py is no tuple of arguments, no tensor and no torch_ext.checking.call(...): it is a int",
    ),
    "inputs that raise": (
        "nets_to_check:Square",
        "def inputs():\n    yield 1 / 0",
        "cannot take the inputs of inputs.py: ZeroDivisionError: division by zero (inputs.py:2)",
    ),
    "inputs that can't be iterated": (
        "nets_to_check:Square",
        "inputs = 3",
        "cannot take the inputs of inputs.py: TypeError: 'int' object is not iterable",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_use_is_one_line(folder, kind):
    target, inputs, said = WRONG[kind]
    (folder / "bad.py").write_text("a = 1\n1 / 0\n")
    (folder / "exits.py").write_text("import sys\nsys.exit(3)\n")
    (folder / "syntax.py").write_text("def f(:\n")
    if inputs is None:
        (folder / "inputs.py").unlink()
    elif inputs:
        (folder / "inputs.py").write_text(inputs)
    code, out, errors = run("check", target, "--inputs", "inputs.py")
    assert code == 2
    assert out == ""
    assert len(errors) == 1
    assert errors[0].startswith(f"torch-ext check: {said}")


@pytest.mark.parametrize(
    "options, said",
    [
        ((), "say what to call it with: --inputs FILE.py or --script PROGRAM.py"),
        (("--inputs", "inputs.py", "--script", "inputs.py"), "say what to call it with: "),
        (("--inputs", "inputs.py", "a", "b"), "arguments are for the program of --script: a b"),
        (("--inputs", "inputs.py", "--skip", "all"), "--skip is one of outputs, gradients, double gradients, "),
        (("--script", "missing.py"), "there is no file missing.py"),
    ],
)
def test_wrong_options(folder, options, said):
    code, out, errors = run("check", "nets_to_check:Square", *options)
    assert (code, out, len(errors)) == (2, "", 1)
    assert errors[0].startswith(f"torch-ext check: {said}")


# --- Inputs -----------------------------------------------------------------------------------------

GIVEN = {
    "a list": "inputs = [(torch.ones(2),), (torch.ones(3),)]",
    "tensors": "inputs = [torch.ones(2), torch.ones(3)]",
    "a tuple of tuples": "inputs = ((torch.ones(2),), (torch.ones(3),))",
    "a function": "def inputs(): return [(torch.ones(2),), (torch.ones(3),)]",
    "a generator": "def inputs():\n    yield torch.ones(2)\n    yield (torch.ones(3),)",
    "calls": "from torch_ext.checking import call\ninputs = [call(torch.ones(2)), call(torch.ones(3))]",
}


@pytest.mark.parametrize("kind", GIVEN)
def test_inputs_of_a_file(folder, kind):
    (folder / "inputs.py").write_text(f"import torch\n{GIVEN[kind]}\n")
    code, out, _ = run("check", "nets_to_check:Square", "--inputs", "inputs.py", *QUICK, "--json")
    assert code == 0
    assert [each["inputs"] for each in json.loads(out)] == ["float32[2] with gradient", "float32[3] with gradient"]


PROGRAMS = {
    "a module's": (
        "nets_to_check:Square",
        "import torch, nets_to_check as nets\nfor n in (1, 1, 2, 3): nets.Square.apply(torch.ones(n))",
    ),
    "by its file": (
        "nets_to_check.py:Square",
        "import torch\nfrom nets_to_check import Square\nfor n in (1, 2, 3): Square.apply(torch.ones(n))",
    ),
    "its own": (
        "program.py:Square",
        NETS.split("class Wrong", maxsplit=1)[0] + "\nfor n in (1, 2, 3): Square.apply(torch.ones(n))",
    ),
    "its own, in main": (
        "program.py:Square",
        NETS.split("class Wrong", maxsplit=1)[0]
        + "\nif __name__ == '__main__':\n    for n in (1, 2, 3): Square.apply(torch.ones(n))\n    sys.exit()",
    ),
    "stopped early": (
        "nets_to_check:Square",
        "import torch, nets_to_check as nets\nn = 0\nwhile True:\n    n += 1\n    nets.Square.apply(torch.ones(n))",
    ),
    "of one form": (
        "nets_to_check:Square",
        "import torch, nets_to_check as nets\nwhile True:\n    nets.Square.apply(torch.ones(1))",
    ),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_calls_of_a_program(folder, kind):
    target, program = PROGRAMS[kind]
    (folder / "program.py").write_text(program)
    code, out, errors = run("check", target, "--script", "program.py", "--calls", "2", *QUICK, "--json")
    assert (code, errors) == (0, [])
    expected = [f"float32[{n}] with gradient" for n in (1, 2)][: 1 + (kind != "of one form")]
    assert [each["inputs"] for each in json.loads(out)] == expected


def test_arguments_of_a_program(folder):
    (folder / "program.py").write_text(
        "import sys, torch, nets_to_check as nets\nassert sys.argv == ['program.py', '3', '--fast'], sys.argv\n"
        "nets.Square.apply(torch.ones(int(sys.argv[1])))"
    )
    code, out, _ = run("check", "nets_to_check:Square", "--script", "program.py", "--json", *QUICK, "--", "3", "--fast")
    assert code == 0
    assert json.loads(out)[0]["inputs"] == "float32[3] with gradient"


@pytest.mark.parametrize(
    "end, said",
    [
        ("", ""),
        ("sys.exit(0)", ""),
        ("sys.exit(3)", "sys.exit(3)"),
        ("1 / 0", "ZeroDivisionError: division by zero (program.py:3)"),
    ],
)
def test_program_that_fails(folder, end, said):
    (folder / "program.py").write_text(f"import sys, torch, nets_to_check as nets\nCALL\n{end}\n")
    text = (folder / "program.py").read_text()
    (folder / "program.py").write_text(text.replace("CALL", "nets.Square.apply(torch.ones(1))"))
    code, _, errors = run("check", "nets_to_check:Square", "--script", "program.py", *QUICK)
    note = f"torch-ext check: program.py ended by {said}; what it had called until then is tried"
    assert (code, errors) == (0, [note] if said else [])

    (folder / "program.py").write_text(text.replace("CALL", ""))
    code, out, errors = run("check", "nets_to_check:Square", "--script", "program.py", *QUICK)
    ended = f"; it ended by {said}" if said else ""
    assert (code, out) == (1, "")
    assert errors == [f"torch-ext check: program.py ran, and nets_to_check:Square was never called{ended}"]


def test_the_page_shows_what_is_printed(folder):
    page = PAGE.read_text()
    for name in ("nets.py", "inputs.py"):
        (text,) = re.findall(rf"`{name}`\n\n```python\n(.*?)```", page, re.DOTALL)
        (folder / name).write_text(text)
    (shown,) = re.findall(r"`torch-ext check .*` prints:\n\n```text\n(.*?)```", page, re.DOTALL)
    code, out, errors = run("check", "nets.py:Spike", "--inputs", "inputs.py")
    assert (code, out, errors) == (0, shown, [])


def test_the_page_has_each_question():
    _, _, table = PAGE.read_text().partition("| question | what is done |\n| --- | --- |\n")
    assert re.findall(r"^\| (.+?) \|", table.partition("\n\n")[0], re.MULTILINE) == list(QUESTIONS)


def test_find_class(folder):
    assert find_class("nets_to_check:Square").__name__ == "Square"
    with pytest.raises(NotFoundError, match="there is no file"):
        find_class("nothing.py:A")


def test_help_is_readable(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("check", "--help")
    assert code == 0
    assert "torch-ext check nets.py:Spike --inputs inputs.py" in out
    assert max(map(len, out.splitlines())) <= 80


def test_as_a_command(folder):
    done = subprocess.run(
        [sys.executable, "-m", "torch_ext", "check", "nets_to_check:Square", "--inputs", "inputs.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    # Without a GIL Triton, which torch.compile imports, complains of itself at the end.
    errors = done.stderr.partition("nanobind: leaked")[0]
    assert (done.returncode, errors) == (0, "")
    rows = [re.split(r"\s*│\s*", line)[1:-1] for line in done.stdout.splitlines() if line.startswith("│")]
    assert rows == [[name, side, side, "" if side == "-" else "yes"] for name, side in {**ALL, **NONE}.items()]
    assert textwrap.dedent(done.stdout).endswith(
        "forward AD: it has no jvp\nvmap: it has no vmap, and no generate_vmap_rule\n\n"
    )
