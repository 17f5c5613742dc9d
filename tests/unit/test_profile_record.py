# SPDX-License-Identifier: BSD-3-Clause
"""torch_ext.profile.record: which calls are counted, where, and what stands in for them on stock torch."""

import gc
import io
import json
import threading
import weakref
from pathlib import Path

import pytest
import torch
from harness.small_functions import make_doubler, make_square
from rich.console import Console
from torch.utils.checkpoint import checkpoint

import torch_ext
from torch_ext.profile import record, stand_in

THIS = str(Path(__file__))


Square = make_square(torch.autograd.Function)


class Spike(torch_ext.Function):
    @staticmethod
    def forward(x, slope=10.0):
        return (x > 0).to(x.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.slope = inputs
        ctx.save_for_backward(x, None, output)

    @staticmethod
    def backward(ctx, grad):
        x, _, _ = ctx.saved_tensors
        return grad / (ctx.slope * x.abs() + 1) ** 2, None


class Product(torch_ext.Function):
    @staticmethod
    def forward(ctx, a, b, *others):
        ctx.save_for_backward(a, b)
        return a * b, a + b

    @staticmethod
    def backward(ctx, grad, other):
        a, b = ctx.saved_tensors
        return grad * b + other, grad * a + other, *([None] * (len(ctx.needs_input_grad) - 2))


class Fails(torch_ext.Function):
    @staticmethod
    def forward(ctx, x, at):
        ctx.at = at
        if at == "forward":
            raise KeyError(at)
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        if ctx.at == "backward":
            raise KeyError(ctx.at)
        return grad * 2, None


class Outer(torch_ext.Function):
    @staticmethod
    def forward(ctx, x):
        return Spike.apply(x) + Spike.apply(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


def leaf(*shape):
    return torch.ones(shape or (3,), requires_grad=True)


def counts(recorded):
    """By Function: calls of forward, those of it with a node, calls of backward, bytes saved."""
    return {
        each.name: (each.forward.calls, each.recorded, each.backward.calls, each.saved)
        for each in recorded.report.functions
    }


# --- What is counted --------------------------------------------------------------------------------


def twice():
    Spike.apply(leaf()).sum().backward()
    Spike.apply(leaf(5), 2.0)


def without_grad():
    with torch.no_grad():
        Spike.apply(leaf())
    Spike.apply(torch.ones(3))
    Spike.apply(leaf())


def several_backwards():
    loss = sum(each.sum() for each in Product.apply(leaf(), leaf()))
    loss.backward(retain_graph=True)
    loss.backward()


def nested():
    Outer.apply(leaf()).sum().backward()


def reentrant():
    checkpoint(Spike.apply, leaf(), use_reentrant=True).sum().backward()


def in_threads():
    threads = [threading.Thread(target=twice) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def made_anew():
    for _ in range(200):

        class Local(torch_ext.Function):
            forward = staticmethod(lambda ctx, x: x * 2)
            backward = staticmethod(lambda ctx, grad: grad * 2)

        Local.apply(leaf()).sum().backward()


def before_and_after():
    """A backward of a call that was not seen."""
    BEFORE.sum().backward()


BEFORE = Product.apply(leaf(), leaf())[0]


CASES = {
    twice: {"Spike": (2, 2, 1, 2 * 3 * 4 + 2 * 5 * 4)},
    without_grad: {"Spike": (3, 1, 0, 2 * 3 * 4)},
    several_backwards: {"Product": (1, 1, 2, 2 * 3 * 4)},
    nested: {"Outer": (1, 1, 1, 0), "Spike": (2, 0, 0, 0)},
    reentrant: {"Spike": (2, 1, 1, 2 * 3 * 4)},
    in_threads: {"Spike": (8, 8, 4, 4 * (2 * 3 * 4 + 2 * 5 * 4))},
    made_anew: {"made_anew.<locals>.Local": (200, 200, 200, 0)},
    before_and_after: {"Product": (0, 0, 1, 0)},
    gc.collect: {},
}


@pytest.mark.parametrize("program", CASES)
def test_calls_are_counted(program):
    with record(stock=False) as recorded:
        program()
    found = {name: row for name, row in counts(recorded).items() if "CheckpointFunction" not in name}
    assert found == CASES[program]


def test_transforms_work_as_before():
    def gradient():
        return torch.func.grad(lambda x: Spike.apply(x).sum())(torch.ones(3)).tolist()

    with record():
        during = gradient()
    assert during == gradient()


def test_an_installed_torch_ext_is_seen_and_stock_torch_is_not():
    with record(stock=False) as recorded:
        Square.apply(leaf()).sum().backward()
        with torch_ext.installed():
            Square.apply(leaf()).sum().backward()
    assert counts(recorded) == {"make_square.<locals>.Square": (1, 1, 1, 12)}


def test_a_call_that_raises_raises_as_before_and_is_not_counted():
    with record(stock=False) as recorded:
        with pytest.raises(KeyError, match="forward"):
            Fails.apply(leaf(), "forward")
        with pytest.raises(KeyError, match="backward"):
            Fails.apply(leaf(), "backward").sum().backward()
    assert counts(recorded) == {"Fails": (1, 1, 0, 0)}


def test_a_row_says_where_the_function_is():
    with record(stock=False) as recorded:
        twice()
    (row,) = recorded.report.functions
    assert (row.name, row.module, row.file) == ("Spike", __name__, THIS)
    assert row.line == Spike.forward.__code__.co_firstlineno
    assert row.place == f"{Path(THIS).name}:{row.line}"


def test_times_are_parts_of_each_other():
    with record(stock=False) as recorded:
        for _ in range(50):
            several_backwards()
    (row,) = recorded.report.functions
    for times in (row.forward, row.backward):
        assert 0 < times.user < times.total < recorded.report.seconds
        assert 0 < times.overhead < times.median
        assert list(times.quantiles) == sorted(times.quantiles)
        assert times.quantiles[2] == times.median
    assert row.total == row.forward.total + row.backward.total
    assert row.overhead == row.forward.overhead_total + row.backward.overhead_total


def test_more_calls_than_are_kept_one_by_one():
    with record(stock=False) as recorded:
        for _ in range(3000):
            Spike.apply(torch.ones(1))
    (row,) = recorded.report.functions
    assert row.forward.calls == 3000
    assert row.forward.quantiles[0] > 0


# --- What the program sees of it --------------------------------------------------------------------


def test_results_are_the_same_bit_for_bit():
    def results():
        torch.manual_seed(0)
        x, y = (torch.randn(7, requires_grad=True) for _ in range(2))
        loss = sum(each.sum() for each in Product.apply(Spike.apply(x), y))
        loss.backward()
        return [loss.item(), x.grad.tolist(), y.grad.tolist(), torch.rand(1).item(), type(loss.grad_fn).__name__]

    before = results()
    with record():
        during = results()
    assert during == before == results()


def test_neither_tensors_nor_classes_are_kept():
    class Local(torch_ext.Function):
        forward = staticmethod(lambda ctx, x: x * 2)
        backward = staticmethod(lambda ctx, grad: grad * 2)

    with record() as recorded:
        x = leaf()
        y = Local.apply(x)
        kept = [weakref.ref(each) for each in (x, y, Local)]
        del x, y, Local
        gc.collect()
        assert [each() for each in kept] == [None, None, None]
    assert len(recorded.report.functions) == 1


def test_records_can_overlap():
    with record(stock=False) as outer:
        twice()
        with record(stock=False) as inner:
            twice()
    assert counts(inner) == CASES[twice]
    assert counts(outer)["Spike"][:3] == (4, 4, 2)


def test_a_record_can_be_printed_while_it_runs_and_be_used_again():
    recorded = record(stock=False)
    assert "No custom Function" in str(recorded)
    with recorded:
        twice()
        assert " Spike" in str(recorded)
        with pytest.raises(RuntimeError, match="this record runs already"):
            recorded.start()
    recorded.stop()
    assert counts(recorded) == CASES[twice]
    with recorded:
        several_backwards()
    assert counts(recorded) == CASES[several_backwards]


def test_nobody_is_left_who_times_calls():
    with record(stock=False) as recorded:
        pass
    with pytest.raises(ValueError, match="nobody times calls as number 0"):
        torch_ext._C.timed_calls(0)
    twice()
    assert counts(recorded) == {}


# --- What stock torch would have cost ---------------------------------------------------------------


class Keywords(torch_ext.Function):
    @staticmethod
    def forward(ctx, a, /, b=None, *, c=2):
        return a * c

    @staticmethod
    def backward(ctx, grad):
        return grad * 2, None, None


class Whole(torch_ext.Function):
    @staticmethod
    def forward(x):
        return x * 2, x.long(), x.detach() * 3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(output[1], output[2])

    @staticmethod
    def backward(ctx, grad, *_):
        return grad * 2


class Nothing(torch_ext.Function):
    @staticmethod
    def forward(ctx, x):
        return None

    @staticmethod
    def backward(ctx, *_):
        return None


InPlace = make_doubler(torch_ext.Function)


CALLS = {
    "one input": lambda: Spike.apply(leaf()),
    "two outputs": lambda: Product.apply(leaf(), leaf()),
    "more arguments than it names": lambda: Product.apply(leaf(), leaf(), 1, "x", leaf()),
    "by position only, a default": lambda: Keywords.apply(leaf()),
    "outputs without gradients": lambda: Whole.apply(leaf()),
    "no tensor": lambda: Nothing.apply(leaf()),
    "in place": lambda: InPlace.apply(leaf() * 1),
    "complex": lambda: Spike.apply(leaf().to(torch.float64)),
    "no input with a gradient": lambda: Spike.apply(torch.ones(2)),
    "no inputs": lambda: Fails.apply(torch.ones(2, dtype=torch.int64), 1),
}


@pytest.mark.parametrize("call", CALLS)
def test_each_kind_of_call_has_a_stand_in(call):
    with record() as recorded:
        output = CALLS[call]()
        if isinstance(output, torch.Tensor) and output.requires_grad:
            output.sum().backward()
    (row,) = recorded.report.functions
    assert row.forward.stock_extra is not None
    assert row.forward.stock_overhead == row.forward.overhead + row.forward.stock_extra / row.forward.calls
    assert (row.stock_extra is None) is (row.backward.calls > 0 and row.backward.stock_extra is None)


def test_the_stand_in_never_calls_the_users_code():
    calls = []

    class Noting(torch_ext.Function):
        @staticmethod
        def forward(ctx, x):
            calls.append("forward")
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            calls.append("backward")
            return grad * 2

    with record():
        Noting.apply(leaf()).sum().backward()
    assert calls == ["forward", "backward"]


def test_the_stand_in_is_called_as_the_function_is():
    shape = stand_in.shape_of(Product, (leaf(), leaf(), 3), (leaf(), leaf()), 2, True)
    cls = stand_in._build(shape)
    for apply in (torch_ext._C.torch_apply, torch_ext._C.apply):
        outputs = apply.__get__(None, cls)(*(each and each.make(each.requires_grad) for each in shape.inputs))
        assert [each.requires_grad for each in outputs] == [True, True]
        assert len(outputs[0].grad_fn.saved_tensors) == 2
    assert isinstance(outputs[0].grad_fn, torch_ext._C.Ctx)


def test_what_cannot_be_copied_is_not_measured(monkeypatch):
    def fail(shape):
        raise TypeError

    monkeypatch.setattr(stand_in, "_build", fail)
    with record() as recorded:
        twice()
    (row,) = recorded.report.functions
    assert (row.forward.stock_overhead, row.stock_extra) == (None, None)
    assert " - " in str(recorded)
    assert gc.isenabled()


# --- Tables and data --------------------------------------------------------------------------------


def test_the_table_fits_into_80_columns():
    with record() as recorded:
        twice()
        several_backwards()
        made_anew()
    lines = str(recorded).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[-1] for line in lines if line].count("Spike") == 3
    place = f"test_profile_record.py:{Spike.forward.__code__.co_firstlineno}"
    assert [place, __name__, "Spike"] in [line.split() for line in lines]
    head = [line.split() for line in lines if "Function" in line.split()[-1:]]
    assert head == [
        "calls forward total backward total share saved Function".split(),
        "forward stock backward stock total stock Function".split(),
        "file module Function".split(),
    ]


def test_rich_prints_the_same_cells():
    with record(stock=False) as recorded:
        twice()
    console = Console(width=80, file=io.StringIO())
    console.print(recorded)
    printed = console.file.getvalue()
    plain = str(recorded).splitlines()
    cells = next(line for line in plain if "Spike" in line).split()
    assert next(line for line in printed.splitlines() if "Spike" in line).split() == cells


def test_json_has_the_sums():
    with record() as recorded:
        twice()
    data = json.loads(recorded.to_json())
    (function,) = data["functions"]
    row = recorded.report.functions[0]
    assert data["seconds"] == recorded.report.seconds
    assert function["total"] == row.total
    assert function["share"] == row.total / data["seconds"]
    assert function["forward"]["stock_overhead"] == row.forward.stock_overhead
    assert function["backward"]["calls"] == 1


SECONDS = {
    None: "-",
    0: "0 s",
    1e-7: "0.10 µs",
    1.23456e-6: "1.23 µs",
    12.3456e-6: "12.3 µs",
    123.456e-6: "123 µs",
    0.00099951: "1.00 ms",
    0.0123: "12.3 ms",
    0.99951: "1.00 s",
    1234.5: "1234 s",
    -2e-6: "-2.00 µs",
}


@pytest.mark.parametrize("value", SECONDS)
def test_times_are_written_for_people(value):
    from torch_ext.profile.table import seconds

    assert seconds(value) == SECONDS[value]
