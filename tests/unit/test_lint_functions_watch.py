# SPDX-License-Identifier: BSD-3-Clause
"""torch_ext.lint.watch(): what it sees while programs run, and that they run as without it."""

import contextlib
import gc
import inspect
import itertools
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import wrong_functions
from test_lint_functions_check import expected, seen
from torch.autograd.function import FunctionMeta
from torch.utils.checkpoint import checkpoint
from wrong_functions import RIGHT, TRACKED, UNTRACKED, WRONG, leaf, takes_something

import torch_ext
from torch_ext import lint

pytestmark = pytest.mark.filterwarnings("ignore::torch_ext.lint.FunctionWarning")

TORCHS_INIT = FunctionMeta.__init__
BASES = {"stock": torch.autograd.Function, "ours": torch_ext.Function, "installed": torch.autograd.Function}


def is_tensor(value):
    return isinstance(value, torch.Tensor)


def run(cls, inputs):
    """A call with its double backward; what torch refuses is refused."""
    needed = [each for each in inputs if is_tensor(each) and each.requires_grad]
    outputs = cls.apply(*inputs)
    outputs = [
        each
        for each in (outputs if isinstance(outputs, tuple) else [outputs])
        if is_tensor(each) and each.requires_grad
    ]
    gradients = [torch.ones_like(each).requires_grad_() * 1 for each in outputs]
    torch.autograd.grad(outputs, needed, gradients, create_graph=True, allow_unused=True)


@contextlib.contextmanager
def running_on(base):
    with torch_ext.installed() if base == "installed" else contextlib.nullcontext():
        yield


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("make", WRONG, ids=lambda make: make.__name__)
def test_watching(make, base):
    with running_on(base), lint.watch() as watch:
        cls, *inputs = make(BASES[base])
        with contextlib.suppress(RuntimeError):
            run(cls, inputs)
    assert seen(watch.findings) == expected(make, "w")


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("make", RIGHT, ids=lambda make: make.__name__)
def test_right_ones(make, base):
    with running_on(base), lint.watch() as watch:
        cls, *inputs = make(BASES[base])
        try:
            run(cls, inputs)
        except RuntimeError as error:
            assert "once_differentiable" in str(error)
    assert watch.findings == []


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", [*UNTRACKED, *TRACKED])
def test_arguments(name, base):
    cls = takes_something(BASES[base])
    argument = (UNTRACKED | TRACKED)[name]()
    with running_on(base), lint.watch() as watch:
        cls.apply(leaf(), argument)  # here
        cls.apply(torch.ones(3), argument)  # and here
    lines, first = inspect.getsourcelines(test_arguments)
    marks = [number for number, line in enumerate(lines, first) if line.rstrip().endswith(" here")]
    expected = [("untracked-argument", line) for line in marks] if name in UNTRACKED else []
    assert [(each.kind, each.line) for each in watch.findings] == expected


def test_tensors_that_are_arguments_too_are_tracked():
    class Fn(torch.autograd.Function):
        @staticmethod
        def forward(ctx, all_of_them, *xs):
            return sum(xs)

        @staticmethod
        def backward(ctx, grad):
            return (None, grad, grad)

    xs = leaf(), leaf()
    with lint.watch() as watch:
        Fn.apply(list(xs), *xs).sum().backward()
    assert watch.findings == []


# --- It changes nothing ---------------------------------------------------------------------------


def make_cube(base=torch.autograd.Function):
    class Cube(base):
        @staticmethod
        def forward(x, power=3):
            return x**power

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.x, ctx.power = inputs

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.power * ctx.x ** (ctx.power - 1), None

    return Cube


def everything(cls):
    apply = vars(torch.autograd.Function)["apply"]
    return dict(vars(cls)), apply, vars(FunctionMeta)["__init__"], torch_ext.is_installed()


def is_same(one, other):
    return one[0].items() == other[0].items() and one[1:] == other[1:]


@pytest.mark.parametrize("base", BASES)
def test_results_and_nodes_are_the_same(base):
    def results(cls):
        x = leaf()
        y = cls.apply(x)
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        hooks = y.grad_fn._backward_hooks if hasattr(y.grad_fn, "_backward_hooks") else None
        return y.tolist(), first.tolist(), second.tolist(), y.grad_fn.name(), sorted(vars(y.grad_fn)), hooks

    with running_on(base):
        cls = make_cube(BASES[base])
        without = results(cls)
        before = everything(cls)
        with lint.watch() as watch:
            assert results(cls) == without
            assert inspect.signature(cls.forward) == inspect.signature(before[0]["forward"].__func__)
        assert [each.kind for each in watch.findings] == ["kept-input"]
        assert is_same(everything(cls), before)
        assert results(cls) == without


@pytest.mark.parametrize("order", list(itertools.permutations(["install", "watch", "uninstall", "stop"])), ids="-".join)
def test_orders_with_install(order):
    torch_ext.uninstall()
    cls = make_cube()
    before = everything(cls)
    watch = lint.watch()
    steps = {
        "install": torch_ext.install,
        "uninstall": torch_ext.uninstall,
        "watch": watch.start,
        "stop": watch.stop,
    }
    installed = watching = False
    try:
        for step in order:
            steps[step]()
            installed = {"install": True, "uninstall": False}.get(step, installed)
            watching = {"watch": True, "stop": False}.get(step, watching)
            known = len(watch.findings)
            y = cls.apply(leaf())
            assert isinstance(y.grad_fn, torch_ext._C.Ctx) == installed == torch_ext.is_installed()
            assert bool(watch.findings) or not watching
            assert watching or len(watch.findings) == known
    finally:
        watch.stop()
        torch_ext.uninstall()
    after = everything(cls)
    assert after[1:] == before[1:]
    assert {name: after[0][name] for name in before[0] if name != "_backward_cls"} == {
        name: value for name, value in before[0].items() if name != "_backward_cls"
    }


@pytest.mark.parametrize("first", ["watch", "accelerate"])
def test_with_accelerate(first):
    cls = make_cube()
    forward = vars(cls)["forward"]
    with lint.watch() if first == "watch" else contextlib.nullcontext():
        torch_ext.accelerate(cls)
        with lint.watch() as watch:
            y = cls.apply(leaf())
        assert [each.kind for each in watch.findings] == ["kept-input"]
        assert isinstance(y.grad_fn, torch_ext._C.Ctx)
    assert vars(cls)["forward"] is forward
    assert isinstance(cls.apply(leaf()).grad_fn, torch_ext._C.Ctx)


def test_what_others_put_there_meanwhile_stays():
    cls = make_cube()
    with lint.watch():
        cls.forward = theirs = staticmethod(lambda x, power=1: x * power)
        inner = FunctionMeta.__init__

        def init(*args):
            inner(*args)

        FunctionMeta.__init__ = init
    try:
        assert vars(cls)["forward"] is theirs
        assert FunctionMeta.__init__ is init
        late = make_cube()
        assert vars(late)["forward"].__func__.__code__.co_filename == __file__
        with lint.watch() as watch:
            late.apply(leaf())
        assert watch.findings
    finally:
        FunctionMeta.__init__ = TORCHS_INIT


def test_a_method_taken_from_a_watched_class():
    with lint.watch():
        cube = make_cube()

        class Other(torch.autograd.Function):
            forward = cube.forward
            setup_context = cube.setup_context
            backward = cube.backward

    assert Other.forward is cube.forward
    assert not hasattr(Other.forward, "__wrapped__")


def test_it_keeps_no_tensor_and_no_class():
    cls = make_cube()
    x = leaf()
    with lint.watch() as watch:
        y = cls.apply(x)
        y.sum().backward()
        references = weakref.ref(y.grad_fn), weakref.ref(x), weakref.ref(y), weakref.ref(cls)
        node_of_y = references[0]
        del x, y, cls
        gc.collect()
        assert node_of_y() is None
        assert [reference() for reference in references] == [None] * 4
    assert watch.findings


def test_it_keeps_no_class_that_a_method_holds():
    def make():
        inner = make_cube()

        class Outer(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return inner.apply(x)

            @staticmethod
            def backward(ctx, grad):
                return __class__ and grad

        return weakref.ref(inner), weakref.ref(Outer)

    with lint.watch():
        references = make()
        gc.collect()
        assert [reference() for reference in references] == [None, None]


def test_exceptions_of_forward_and_backward_pass():
    class Fn(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            if x.numel() > 3:
                raise KeyError("forward")
            ctx.x = x
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise KeyError("backward")

    before = everything(Fn)
    with lint.watch() as watch:
        with pytest.raises(KeyError, match="forward"):
            Fn.apply(leaf(2))
        y = Fn.apply(leaf())
        with pytest.raises(KeyError, match="backward"):
            y.sum().backward()
    assert [each.kind for each in watch.findings] == ["kept-input"]
    assert is_same(everything(Fn), before)


def test_a_ctx_with_strange_attributes():
    class Fn(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.needs_input_grad = None
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    x = leaf()
    with lint.watch() as watch:
        Fn.apply(x).sum().backward()
    assert x.grad.tolist() == [2.0] * 3
    assert watch.findings == []


# --- Warnings -------------------------------------------------------------------------------------


def test_it_warns_once_for_a_place():
    cls = make_cube()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with lint.watch() as watch, lint.watch() as inner:
            for _ in range(3):
                cls.apply(leaf())
    assert [each.category for each in caught] == [lint.FunctionWarning]
    assert (caught[0].filename, caught[0].lineno) == (watch.findings[0].file, watch.findings[0].line)
    assert str(caught[0].message) == str(watch.findings[0])
    assert inner.findings == watch.findings


def test_a_warning_that_is_an_error_leaves_nothing_behind():
    cls = make_cube()
    before = everything(cls)
    with warnings.catch_warnings():
        warnings.simplefilter("error", lint.FunctionWarning)
        with lint.watch(), pytest.raises(lint.FunctionWarning, match="kept on ctx"):
            cls.apply(leaf())
    assert is_same(everything(cls), before)


def test_ignored_kinds():
    with lint.watch(ignore=("kept-input",)) as watch:
        make_cube().apply(leaf())
    assert watch.findings == []
    with pytest.raises(ValueError, match=r"ignore= takes kinds of findings, kept-input, .*; got 'leak'"):
        lint.watch(ignore=("leak",))


def test_start_and_stop():
    cls = make_cube()
    watch = lint.watch()
    watch.stop()
    assert watch.start() is watch
    with pytest.raises(RuntimeError, match="this watch looks on already"):
        watch.start()
    with lint.watch() as inner:
        cls.apply(leaf())
    watch.stop()
    assert watch.findings == inner.findings != []


def test_threads():
    classes = [make_cube() for _ in range(8)]

    def work(cls):
        for _ in range(20):
            x = leaf()
            cls.apply(x).sum().backward()

    with lint.watch() as watch, ThreadPoolExecutor(8) as pool:
        list(pool.map(work, classes))
        list(pool.map(lambda _: work(make_cube()), range(4)))
    assert [each.kind for each in watch.findings] == ["kept-input"]  # one line


# --- Where it steps aside -------------------------------------------------------------------------


def test_torch_compile():
    cls, _ = wrong_functions.input_on_ctx_by_index(torch.autograd.Function)
    compiled = torch.compile(lambda x: cls.apply(x) * 2, backend="eager", fullgraph=True)
    x = leaf()
    expected = (cls.apply(x) * 2).detach()
    with lint.watch() as watch:
        y = compiled(x)
        (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, expected)
    assert torch.equal(grad, 4 * x)
    assert torch.equal(compiled(x), expected)
    assert watch.findings == []


def test_functorch_and_tracing():
    cls = make_cube()
    with lint.watch() as watch:
        assert torch.equal(torch.func.grad(lambda x: cls.apply(x).sum())(torch.ones(3)), 3 * torch.ones(3))
        traced = torch.jit.trace(lambda x: cls.apply(x), torch.ones(3), check_trace=False)
    assert "^Cube" in str(traced.graph)
    assert watch.findings == []


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint_is_right(reentrant):
    layer = torch.nn.Linear(3, 3)
    with lint.watch() as watch:
        checkpoint(layer, leaf(), use_reentrant=reentrant).sum().backward()
    assert watch.findings == []
    assert layer.weight.grad is not None


def test_a_users_hooks_do_not_run_for_it():
    calls = []
    context = torch.autograd.graph.saved_tensors_hooks(
        lambda x: calls.append("pack") or x, lambda x: calls.append("unpack") or x
    )
    with lint.watch(), context:
        cls, x = wrong_functions.saved_intermediate(torch.autograd.Function)
        y = cls.apply(x)
        assert calls == ["pack"] * 2
        y.sum().backward()
    assert calls == ["pack"] * 2 + ["unpack"] * 2


SEEN = []


class Subclass(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        SEEN.append(func.__name__)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_a_subclass_sees_nothing_of_it():
    def operators():
        SEEN.clear()
        x = leaf().detach().as_subclass(Subclass).requires_grad_()
        make_cube().apply(x).sum().backward()
        return list(SEEN)

    without = operators()
    with lint.watch() as watch:
        assert operators() == without
    assert watch.findings


def test_arguments_by_name():
    class Fn(torch_ext.Function):
        @staticmethod
        def forward(ctx, x, scale=2):
            ctx.scale = scale
            return x * scale

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.scale, None

    with lint.watch() as watch:
        results = [Fn.apply(leaf()), Fn.apply(x=leaf(), scale=2), Fn.apply(leaf(), scale=2)]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert watch.findings == []
