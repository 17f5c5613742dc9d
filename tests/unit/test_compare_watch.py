# SPDX-License-Identifier: BSD-3-Clause
"""torch_ext.compare.watch(): the first calls of each Function on both sides, while programs run."""

import random
import threading
from types import SimpleNamespace

import numpy
import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import torch_ext
from torch_ext import _C, compare
from torch_ext.compare import Difference


@pytest.fixture(autouse=True)
def on_torch_ext():
    with torch_ext.installed():
        yield


def ours(ctx):
    """Whether a call runs on torch_ext."""
    return isinstance(ctx, _C.Ctx)


def function(forward, backward=lambda ctx, *grads: grads[0], base=torch.autograd.Function, **attributes):
    """A Function of these methods."""
    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type("Tried", (base,), {**methods, **attributes, "__module__": __name__})


def x():
    return torch.tensor([1.0, -2.0, 3.0], requires_grad=True)


def one_row(watch):
    """The only Function in a report: its line without the name, and what is below it."""
    head, line, *below = watch.report().splitlines()
    assert head.split() == ["Function", "calls", "compared"]
    assert line.startswith(f"{__name__}.")
    return line.split(maxsplit=1)[1].split(maxsplit=2), [each.strip() for each in below]


# --- What is equal ----------------------------------------------------------------------------------


def save(ctx, x):
    ctx.save_for_backward(x)
    return x * x


def square_backward(ctx, grad):
    (x,) = ctx.saved_tensors
    return 2 * x * grad


def in_place(ctx, x):
    ctx.mark_dirty(x)
    return x.mul_(2)


def raising(ctx, grad):
    raise ValueError(f"no gradient: {ctx}")


def keep(ctx, inputs, output):
    ctx.save_for_backward(*(each for each in inputs if isinstance(each, torch.Tensor)))


def sparse():
    return torch.tensor([[0.0, 2.0], [0.0, 3.0]]).to_sparse().requires_grad_()


SQUARE = function(save, square_backward)

# (the Function, its arguments)
EQUAL = {
    "ctx": (SQUARE, lambda: (x(),)),
    "setup_context": (function(lambda x: x * x, square_backward, setup_context=staticmethod(keep)), lambda: (x(),)),
    "a default": (
        function(lambda x, n=2: x * n, lambda ctx, grad: (grad * 2, None), setup_context=staticmethod(keep)),
        lambda: (x(),),
    ),
    "no gradient asked for": (SQUARE, lambda: (torch.ones(2),)),
    "complex": (SQUARE, lambda: (torch.ones(2, dtype=torch.complex64, requires_grad=True),)),
    "bfloat16": (SQUARE, lambda: (torch.ones(2, dtype=torch.bfloat16, requires_grad=True),)),
    "integers": (SQUARE, lambda: (torch.ones(2, dtype=torch.int32),)),
    "no elements": (SQUARE, lambda: (torch.ones(0, requires_grad=True),)),
    "no dimensions": (SQUARE, lambda: (torch.ones((), requires_grad=True),)),
    "expanded": (SQUARE, lambda: (torch.ones(1, requires_grad=True).expand(3),)),
    "transposed": (SQUARE, lambda: (torch.randn(2, 3).t().requires_grad_(),)),
    "sparse": (function(lambda ctx, x: x * 2, lambda ctx, grad: grad * 2), lambda: (sparse(),)),
    "a parameter": (SQUARE, lambda: (torch.nn.Parameter(torch.ones(2)),)),
    "NaN": (function(lambda ctx, x: x / 0 * 0), lambda: (x(),)),
    "minus zero": (function(lambda ctx, x: x * -0.0), lambda: (x(),)),
    "changes in place": (function(in_place, lambda ctx, grad: grad * 2), lambda: (x().clone(),)),
    "in place, setup_context": (
        function(
            lambda x: x.mul_(2),
            lambda ctx, grad: grad * 2,
            setup_context=staticmethod(lambda ctx, inputs, output: ctx.mark_dirty(output)),
        ),
        lambda: (x().clone(),),
    ),
    "changes behind autograd's back": (function(lambda ctx, x: x.data.mul_(2) + 1), lambda: (x(),)),
    "the input returned": (function(lambda ctx, x: x), lambda: (x(),)),
    "a view": (function(lambda ctx, x: x.view(3, 1), lambda ctx, grad: grad.view(3)), lambda: (x(),)),
    "several outputs": (function(lambda ctx, x: (x * 2, None, "text", [1]), lambda ctx, *g: g[0]), lambda: (x(),)),
    "an object": (function(lambda ctx, x: (x * 2, object()), lambda ctx, *grads: grads[0]), lambda: (x(),)),
    "no tensors": (function(lambda ctx, a, b: a + b), lambda: (1, 2)),
    "one tensor twice": (
        function(lambda ctx, x, y: (x.mul_(2), ctx.mark_dirty(x))[0] if x is y else 1 / 0, lambda ctx, g: (g, g)),
        lambda: (torch.ones(2),) * 2,
    ),
    "tensors in a list": (function(lambda ctx, xs: xs[0] + xs[1]["a"]), lambda: ([torch.ones(2), {"a": x()[:2]}],)),
    "random numbers": (
        function(lambda ctx, x: x * torch.rand(3) * random.random() * numpy.random.rand()),
        lambda: (x(),),
    ),
    "random numbers, backward": (function(lambda ctx, x: x * 1, lambda ctx, g: g * torch.rand(3)), lambda: (x(),)),
    "backward raises": (function(lambda ctx, x: x * 1, raising), lambda: (x(),)),
    "another of torch_ext's": (function(save, square_backward, torch_ext.Function), lambda: (x(),)),
    "an accelerated one": (torch_ext.accelerate(function(save, square_backward)), lambda: (x(),)),
    "a subclass": (type("Tried", (SQUARE,), {"__module__": __name__}), lambda: (x(),)),
    "a subclass that calls super": (
        function(lambda ctx, x: SQUARE.forward(ctx, x), square_backward, SQUARE),
        lambda: (x(),),
    ),
    "non-differentiable": (
        function(lambda ctx, x: (y := x > 0, ctx.mark_non_differentiable(y))[0]),
        lambda: (x(),),
    ),
}


@pytest.mark.parametrize("kind", EQUAL)
def test_equal(kind):
    cls, arguments = EQUAL[kind]
    with compare.watch(calls=2) as watch:
        for _ in range(3):
            cls.apply(*arguments())
    assert one_row(watch) == (["3", "2", "equal bit for bit"], [])
    assert watch.differences == []


# --- What differs -----------------------------------------------------------------------------------


def mark(ctx, x):
    y = x * 2
    if ours(ctx):
        ctx.mark_non_differentiable(y)
    return y


# (forward, backward, what differs, on stock torch, on torch_ext)
DIFFERENT = {
    "values": (lambda ctx, x: x + ours(ctx), None, "output 0: element 0 and 2 more", "1.0", "2.0"),
    "one value": (
        lambda ctx, x: x + torch.tensor([0.0, 0, float(ours(ctx))]),
        None,
        "output 0: element 2",
        "3.0",
        "4.0",
    ),
    "the sign of zero": (
        lambda ctx, x: x * (-0.0 if ours(ctx) else 0.0),
        None,
        "output 0: element 0 and 2 more",
        "0.0",
        "-0.0",
    ),
    "NaN": (
        lambda ctx, x: torch.tensor([0x7FC00000 + ours(ctx)], dtype=torch.int32).view(torch.float32),
        None,
        "output 0: element 0",
        "nan (bits 0000c07f)",
        "nan (bits 0100c07f)",
    ),
    "the dtype": (lambda ctx, x: x.double() if ours(ctx) else x * 1, None, "output 0: dtype", "torch.float32", "64"),
    "the shape": (lambda ctx, x: x[: 2 + ours(ctx)] * 1, None, "output 0: shape", "(2,)", "(3,)"),
    "strides": (
        lambda ctx, x: x.new_zeros(2, 2).t() if ours(ctx) else x.new_zeros(2, 2),
        None,
        "output 0: strides",
        "(2, 1)",
        "(1, 2)",
    ),
    "requires_grad": (mark, None, "output 0: requires_grad", "True", "False"),
    "the node": (mark, None, "output 0: grad_fn", "TriedBackward", "None"),
    "whether it is a view": (lambda ctx, x: x if ours(ctx) else x * 1, None, "output 0: is a view", "False", "True"),
    "the version": (
        lambda ctx, x: (y := x * 1, ours(ctx) and y.add_(0))[0],
        None,
        "output 0: version",
        "0",
        "1",
    ),
    "the number of outputs": (
        lambda ctx, x: (x * 1, x * 1)[: 1 + ours(ctx)],
        lambda ctx, *grads: grads[0],
        "output 1",
        "not there",
        "there",
    ),
    "another value": (lambda ctx, x: (x * 1, ours(ctx)), lambda ctx, *g: g[0], "output 1: value", "False", "True"),
    "the input": (
        lambda ctx, x: (ours(ctx) and x.data.zero_(), x * 1)[1],
        None,
        "input 0 after the call: element 0 and 2 more",
        "1.0",
        "0.0",
    ),
    "a gradient": (None, lambda ctx, g: g * 0 + ours(ctx), "gradient 0: element 0 and 2 more", "0.0", "1.0"),
    "no gradient": (None, lambda ctx, g: None if ours(ctx) else g * 0, "gradient 0: value", "not there", "None"),
    "backward raises": (
        None,
        lambda ctx, g: raising("", g) if ours(ctx) else g,
        "raises",
        "not there",
        "there",
    ),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_different(kind):
    forward, backward, what, on_stock, on_ours = DIFFERENT[kind]
    cls = function(forward or (lambda ctx, x: x * 1), backward or (lambda ctx, grad: grad * 1))
    with compare.watch(calls=1) as watch:
        cls.apply(x())
    (row, below) = one_row(watch)
    assert row == ["1", "1", "different"]
    found = {each.what: each for each in watch.differences}
    assert what in found, found
    assert on_stock in found[what].stock
    assert on_ours in found[what].ours
    assert found[what].call == 1
    assert found[what].function == f"{__name__}.Tried"
    assert below == [str(each) for each in watch.differences]


def test_text_of_a_difference():
    difference = Difference("nets.Spike", 2, "output 0: dtype", "torch.float32", "torch.float64")
    assert str(difference) == "call 2: output 0: dtype: torch.float32 on stock torch, torch.float64 on torch_ext"


def test_a_difference_of_one_call_only():
    cls = function(lambda ctx, x, n: x + (ours(ctx) and n == 1), lambda ctx, grad: (grad, None))
    with compare.watch(calls=3) as watch:
        for n in range(4):
            cls.apply(x(), n)
    assert {each.call for each in watch.differences} == {2}
    assert one_row(watch)[0] == ["4", "3", "different"]


# --- What is not compared ---------------------------------------------------------------------------


def test_what_is_random_by_itself():
    numbers = random.SystemRandom()
    cls = function(lambda ctx, x: x + numbers.random())
    with compare.watch(calls=1) as watch:
        cls.apply(x())
    row, below = one_row(watch)
    assert row == ["1", "0", "not compared"]
    assert below == ["1 not compared: it gives something else each time it is called, on torch_ext as well"]
    assert watch.differences == []


class NoCopies(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func.__name__ == "clone":
            raise TypeError("there is only one of me")
        return super().__torch_function__(func, types, args, kwargs or {})


def test_what_cannot_be_copied():
    with compare.watch(calls=1) as watch:
        SQUARE.apply(torch.ones(2).as_subclass(NoCopies))
    row, below = one_row(watch)
    assert row == ["1", "0", "not compared"]
    assert below == ["1 not compared: its arguments can't be copied: TypeError: there is only one of me"]


def test_a_forward_that_raises_raises_once():
    calls = []

    def forward(ctx, x):
        calls.append(1)
        raise KeyError("no")

    with compare.watch(calls=1) as watch, pytest.raises(KeyError, match="no"):
        function(forward).apply(x())
    assert calls == [1]
    assert watch.report() == "No custom Function was called.\n"


@pytest.mark.parametrize("kind", ["vmap", "dispatch mode", "compile"])
def test_what_is_left_alone(kind):
    calls = []

    def forward(x):
        calls.append(1)
        return x * 2

    cls = function(
        forward, lambda ctx, grad: grad * 2, setup_context=staticmethod(keep), generate_vmap_rule=kind == "vmap"
    )
    with compare.watch(calls=1) as watch:
        if kind == "vmap":
            torch.vmap(cls.apply)(torch.ones(2, 3))
        elif kind == "compile":
            torch.compile(lambda x: cls.apply(x), backend="eager")(x())
        else:
            with FlopCounterMode(display=False):
                cls.apply(x())
    assert watch.report() == "No custom Function was called.\n"


# --- The program ------------------------------------------------------------------------------------


def train():
    """Everything that can be seen of a program."""
    torch.manual_seed(0)
    random.seed(0)
    numpy.random.seed(0)
    seen = []
    drop = function(lambda ctx, x: x * (torch.rand(3) > 0.5) * numpy.random.rand() + random.random())
    scale = function(in_place, lambda ctx, grad: grad * 2)
    w = torch.ones(3, requires_grad=True)
    for _ in range(3):
        y = w * torch.randn(3)
        out = scale.apply(y)
        loss = (SQUARE.apply(drop.apply(out)) + checkpoint(SQUARE.apply, w, use_reentrant=True)).sum()
        loss.backward()
        seen.append((loss.item(), w.grad.tolist(), y._version, out is y, w._version, loss.grad_fn.name()))
        with torch.no_grad():
            w -= w.grad
    return seen, torch.rand(1).item(), random.random(), numpy.random.rand()


def test_the_program_runs_as_without():
    expected = train()
    with compare.watch(calls=2) as watch:
        assert train() == expected
    rows = watch.report().splitlines()[1:]
    assert len(rows) == 4  # checkpoint's own among them
    assert all(row.endswith("2  equal bit for bit") for row in rows)


@pytest.mark.parametrize(
    "context",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu"),
        torch_ext.detect_anomaly,
        lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t * 1, lambda t: t),
        lambda: torch.device("meta"),
        torch_ext.lint.watch,
    ],
    ids=["no_grad", "inference mode", "autocast", "anomaly mode", "saved-tensor hooks", "default device", "lint"],
)
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_contexts(context):
    with context(), compare.watch(calls=1) as watch:
        SQUARE.apply(torch.ones(2, requires_grad=True))
    assert one_row(watch) == (["1", "1", "equal bit for bit"], [])


def test_calls_inside_calls():
    outer = function(lambda ctx, x: SQUARE.apply(x), lambda ctx, grad: SQUARE.apply(grad))
    with compare.watch(calls=5) as watch:
        outer.apply(x()).sum().backward()
    lines = watch.report().splitlines()[1:]
    assert [line.split()[1:3] for line in lines] == [["2", "2"], ["1", "1"]]


def test_a_name_bound_before_and_classes_made_meanwhile():
    square = SQUARE.apply
    with compare.watch() as watch:
        square(x())
        function(lambda ctx, x: x * 2).apply(x())
    assert watch.report().count("equal bit for bit") == 2


def test_threads():
    with compare.watch(calls=40) as watch:
        threads = [threading.Thread(target=lambda: [SQUARE.apply(x()) for _ in range(20)]) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    (calls, compared, verdict), below = one_row(watch)
    assert calls == "80"
    assert 1 <= int(compared) <= 40
    assert (verdict, below) == ("equal bit for bit", [])


def fail_after(_):
    raise KeyError


def test_nothing_is_left_behind():
    before = dict(vars(SQUARE))
    with pytest.raises(KeyError), compare.watch(), torch_ext.lint.watch():
        fail_after(SQUARE.apply(x()))
    assert dict(vars(SQUARE)) == before
    calls = SimpleNamespace(number=0)

    def forward(ctx, x):
        calls.number += 1
        return x * 1

    cls = function(forward)
    with compare.watch(calls=1):
        cls.apply(x())
        assert calls.number == 4
        cls.apply(x())
    cls.apply(x())
    assert calls.number == 6


def test_it_can_be_used_again():
    watch = compare.watch(calls=2)
    for _ in range(2):
        with watch:
            SQUARE.apply(x())
        SQUARE.apply(x())
    assert one_row(watch)[0][:2] == ["2", "2"]


def test_wrong_number():
    with pytest.raises(ValueError, match=r"^watch\(\) compares at least one call, got calls=0$"):
        compare.watch(calls=0)
