# SPDX-License-Identifier: BSD-3-Clause
"""install(), uninstall(), installed(), is_installed() and accelerate()."""

import gc
import subprocess
import sys
import threading
import weakref

import pytest
import torch
from torch.autograd import Function
from torch.autograd.function import (
    BackwardCFunction,
    FunctionCtx,
    FunctionMeta,
    _SingleLevelFunction,
)
from torch.utils.checkpoint import checkpoint

import torch_ext
from torch_ext import _compat

THREADS = 16


@pytest.fixture(autouse=True)
def not_installed():
    torch_ext.uninstall()
    yield
    torch_ext.uninstall()


def make_double(base=Function, name="Double"):
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 2 + x * 0

    return type(base)(
        name,
        (base,),
        {"forward": staticmethod(forward), "backward": staticmethod(backward)},
    )


def leaf():
    return torch.tensor([1.0, 2.0], requires_grad=True)


def is_ours(node):
    """Whether torch_ext created the node."""
    return isinstance(node, torch_ext._C.Ctx)


def runs_on_torch_ext(apply):
    x = leaf()
    y = apply(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, x * 2)
    assert torch.equal(grad, torch.full_like(x, 2))
    return is_ours(y.grad_fn)


def in_threads(work, count=THREADS):
    """Runs work(index) on threads that start together. Raises what one of them raised."""
    barrier = threading.Barrier(count)
    errors = []

    def run(index):
        barrier.wait()
        try:
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def attributes(owner):
    """A namespace, comparable by identity and order."""
    return [(name, id(value)) for name, value in vars(owner).items()]


TORCH_NAMESPACES = [
    Function,
    _SingleLevelFunction,
    BackwardCFunction,
    FunctionCtx,
    FunctionMeta,
    torch._C._FunctionBase,
    torch._C,
    torch.autograd,
    torch.autograd.function,
    torch.autograd.anomaly_mode,
    torch.autograd.graph,
    torch.autograd.variable,
]


# What install() changes


def test_import_installs_nothing():
    program = (
        "import torch; before = vars(torch.autograd.Function)['apply']\n"
        "import torch_ext\n"
        "assert torch_ext.is_installed() is False\n"
        "assert vars(torch.autograd.Function)['apply'] is before\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_is_installed_follows_install_and_uninstall():
    assert torch_ext.is_installed() is False
    torch_ext.install()
    assert torch_ext.is_installed() is True
    torch_ext.uninstall()
    assert torch_ext.is_installed() is False


def test_classes_defined_before_and_after_run_on_it():
    before = make_double()
    unused = make_double()
    assert not runs_on_torch_ext(before.apply)
    torch_ext.install()
    after = make_double()
    for cls in before, unused, after:
        assert runs_on_torch_ext(cls.apply)
    torch_ext.uninstall()
    for cls in before, unused, after:
        assert not runs_on_torch_ext(cls.apply)


def test_subclass_of_a_subclass_runs_on_it():
    cls = make_double(make_double())
    torch_ext.install()
    assert runs_on_torch_ext(cls.apply)


def test_install_returns_none_and_so_does_uninstall():
    assert torch_ext.install() is None
    assert torch_ext.uninstall() is None


def test_install_twice_is_install_once():
    torch_ext.install()
    installed = attributes(Function)
    torch_ext.install()
    assert attributes(Function) == installed
    torch_ext.uninstall()
    assert not torch_ext.is_installed()
    assert not runs_on_torch_ext(make_double().apply)


def test_uninstall_without_install_changes_nothing():
    before = [attributes(owner) for owner in TORCH_NAMESPACES]
    torch_ext.uninstall()
    torch_ext.uninstall()
    assert [attributes(owner) for owner in TORCH_NAMESPACES] == before


def test_torch_ext_function_does_not_depend_on_install():
    cls = make_double(torch_ext.Function)
    assert runs_on_torch_ext(cls.apply)
    torch_ext.install()
    assert runs_on_torch_ext(cls.apply)
    torch_ext.uninstall()
    assert runs_on_torch_ext(cls.apply)


def test_bound_apply_is_what_torch_compile_looks_for():
    cls = make_double()
    kind = type(cls.apply)
    torch_ext.install()
    apply = cls.apply
    assert type(apply) is kind
    assert apply.__self__ is cls
    assert apply.__name__ == "apply"
    assert type(cls) is FunctionMeta


# torch's own Functions


def test_checkpoint_runs_on_it():
    x = leaf()
    with torch_ext.installed():
        y = checkpoint(torch.sin, x, use_reentrant=True)
    assert type(y.grad_fn).__name__ == "CheckpointFunctionBackward"
    assert is_ours(y.grad_fn)
    y.sum().backward()
    assert torch.equal(x.grad, x.detach().cos())


def test_module_backward_hooks_run_on_it():
    layer = torch.nn.Linear(2, 2)
    seen = []
    layer.register_full_backward_hook(lambda *args: seen.append(len(args)))
    with torch_ext.installed():
        y = layer(leaf())
    assert type(y.grad_fn).__name__ == "BackwardHookFunctionBackward"
    assert is_ours(y.grad_fn)
    y.sum().backward()
    assert seen == [3]


# What uninstall() leaves


def test_uninstall_restores_the_same_objects():
    before = [attributes(owner) for owner in TORCH_NAMESPACES]
    torch_ext.install()
    assert attributes(Function) != before[0]
    runs_on_torch_ext(make_double().apply)
    torch_ext.uninstall()
    assert [attributes(owner) for owner in TORCH_NAMESPACES] == before


def test_uninstall_leaves_nothing_on_the_classes_that_were_used():
    cls = make_double()
    derived = make_double(cls)
    owners = [cls, derived, cls._backward_cls, derived._backward_cls]
    before = [attributes(owner) for owner in owners]
    bases = [owner.__mro__ for owner in owners]
    with torch_ext.installed():
        assert runs_on_torch_ext(cls.apply)
        assert runs_on_torch_ext(derived.apply)
    gc.collect()
    assert [attributes(owner) for owner in owners] == before
    assert [owner.__mro__ for owner in owners] == bases


def test_uninstall_leaves_nothing_of_an_error():
    class Fails(Function):
        @staticmethod
        def forward(ctx, x):
            raise KeyError("forward")

    before = attributes(Fails), attributes(Fails._backward_cls)
    with torch_ext.installed(), pytest.raises(KeyError):
        Fails.apply(leaf())
    assert (attributes(Fails), attributes(Fails._backward_cls)) == before


def test_the_backward_class_that_torch_made_stays():
    cls = make_double()
    theirs = cls._backward_cls
    with torch_ext.installed():
        node = cls.apply(leaf()).grad_fn
        assert cls._backward_cls is theirs
    assert issubclass(type(node), theirs) and type(node).__name__ == theirs.__name__
    assert cls._backward_cls is theirs


def test_a_class_can_be_used_again_after_each_installation():
    cls = make_double()
    before = attributes(cls)
    for _ in range(3):
        with torch_ext.installed():
            assert runs_on_torch_ext(cls.apply)
        assert not runs_on_torch_ext(cls.apply)
    assert attributes(cls) == before


def test_a_class_dies_after_use():
    cls = make_double()
    died = [weakref.ref(cls), weakref.ref(cls._backward_cls)]
    with torch_ext.installed():
        runs_on_torch_ext(cls.apply)
        died.append(weakref.ref(cls._backward_cls))
    del cls
    gc.collect()
    assert [ref() for ref in died] == [None, None, None]


def test_a_class_dies_while_installed():
    with torch_ext.installed():
        cls = make_double()
        runs_on_torch_ext(cls.apply)
        died = weakref.ref(cls)
        del cls
        gc.collect()
        assert died() is None


# Graphs that outlive the installation


def test_nodes_made_before_uninstall_run_after_it():
    events = []

    class Cube(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            ctx.scale = 3
            return x**3

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            events.append(("backward", ctx.needs_input_grad))
            return ctx.scale * x * x * grad

    x = leaf()
    with torch_ext.installed():
        y = Cube.apply(x)
    node = y.grad_fn
    node.register_prehook(lambda grads: events.append("prehook"))
    node.register_hook(lambda inputs, outputs: events.append("hook"))
    (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), x)
    assert events[:3] == ["prehook", ("backward", (True,)), "hook"]
    assert is_ours(node)
    assert isinstance(node, Cube._backward_cls)
    assert node.name() == "CubeBackward"
    assert torch.equal(grad, 3 * x * x)
    assert torch.equal(second, 6 * x)


def test_nodes_made_before_install_run_after_it():
    cls = make_double()
    x = leaf()
    y = cls.apply(x)
    torch_ext.install()
    assert not is_ours(y.grad_fn)
    y.sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 2))


def test_one_graph_of_both_kinds_of_node():
    cls = make_double()
    x = leaf()
    y = x
    kinds = []
    for installed in True, False, True, False:
        (torch_ext.install if installed else torch_ext.uninstall)()
        y = cls.apply(y)
        kinds.append(is_ours(y.grad_fn))
    y.sum().backward()
    assert kinds == [True, False, True, False]
    assert torch.equal(x.grad, torch.full_like(x, 16))


def test_backward_that_was_entered_while_installed_ends_after_uninstall():
    inner = make_double()
    kinds = []

    class Outer(Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            with torch.enable_grad():
                kinds.append(runs_on_torch_ext(inner.apply))
                torch_ext.uninstall()
                kinds.append(runs_on_torch_ext(inner.apply))
            return grad

    x = leaf()
    torch_ext.install()
    Outer.apply(x).sum().backward()
    assert kinds == [True, False]
    assert torch.equal(x.grad, torch.ones_like(x))


def test_install_and_uninstall_inside_forward():
    class Toggles(Function):
        @staticmethod
        def forward(ctx, x):
            (torch_ext.uninstall if torch_ext.is_installed() else torch_ext.install)()
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    torch_ext.install()
    assert runs_on_torch_ext(Toggles.apply)
    assert not torch_ext.is_installed()
    assert not runs_on_torch_ext(Toggles.apply)
    assert torch_ext.is_installed()


# The context manager


def test_installed_installs_for_the_block():
    cls = make_double()
    with torch_ext.installed():
        assert torch_ext.is_installed()
        assert runs_on_torch_ext(cls.apply)
    assert not torch_ext.is_installed()
    assert not runs_on_torch_ext(cls.apply)


def test_installed_does_nothing_before_it_is_entered():
    manager = torch_ext.installed()
    assert not torch_ext.is_installed()
    with manager:
        assert torch_ext.is_installed()


def test_installed_nests():
    with torch_ext.installed():
        with torch_ext.installed():
            assert torch_ext.is_installed()
        assert torch_ext.is_installed()
    assert not torch_ext.is_installed()


def test_installed_keeps_an_installation_that_was_there():
    torch_ext.install()
    with torch_ext.installed():
        pass
    assert torch_ext.is_installed()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_installed_restores_when_the_block_raises(error):
    before = attributes(Function)
    with pytest.raises(error), torch_ext.installed(), torch_ext.installed():
        raise error("block")
    assert not torch_ext.is_installed()
    assert attributes(Function) == before


# Classes with an apply of their own


def test_own_apply_reaches_ours_through_super():
    calls = []

    class Own(make_double()):
        @classmethod
        def apply(cls, x, scale=1):
            calls.append((cls, scale))
            return super().apply(x)

    class Derived(Own):
        pass

    own = vars(Own)["apply"]
    assert not runs_on_torch_ext(Own.apply)
    torch_ext.install()
    assert runs_on_torch_ext(Own.apply)
    assert runs_on_torch_ext(Derived.apply)
    assert vars(Own)["apply"] is own
    torch_ext.uninstall()
    assert not runs_on_torch_ext(Derived.apply)
    assert calls == [(Own, 1), (Own, 1), (Derived, 1), (Derived, 1)]


def test_own_apply_that_never_calls_super_is_left_alone():
    class Own(Function):
        @staticmethod
        def apply(x):
            return x + 1

    torch_ext.install()
    assert torch.equal(Own.apply(leaf()), leaf() + 1)


def test_explicit_call_of_the_base_apply():
    cls = make_double()
    torch_ext.install()
    apply = _compat.function_of(Function.__dict__["apply"])
    assert runs_on_torch_ext(lambda x: apply(cls, x))


def test_aliased_apply_is_what_it_was_when_taken():
    cls = make_double()
    stock = cls.apply
    torch_ext.install()
    ours = cls.apply
    assert not runs_on_torch_ext(stock)
    assert runs_on_torch_ext(ours)
    torch_ext.uninstall()
    assert not runs_on_torch_ext(stock)
    assert runs_on_torch_ext(ours)


def test_an_alias_keeps_its_class_alive():
    torch_ext.install()
    apply = make_double().apply
    gc.collect()
    assert runs_on_torch_ext(apply)


# One class: accelerate


def test_accelerate_returns_the_class():
    cls = make_double()
    assert torch_ext.accelerate(cls) is cls


def test_accelerate_is_for_one_class_and_its_subclasses():
    cls, other = make_double(), make_double()
    before = make_double(cls)
    torch_ext.accelerate(cls)
    after = make_double(cls)
    assert runs_on_torch_ext(cls.apply)
    assert runs_on_torch_ext(before.apply)
    assert runs_on_torch_ext(after.apply)
    assert not runs_on_torch_ext(other.apply)
    assert not torch_ext.is_installed()


def test_accelerate_leaves_the_base_alone():
    base = make_double()
    derived = make_double(base)
    torch_ext.accelerate(derived)
    assert runs_on_torch_ext(derived.apply)
    assert not runs_on_torch_ext(base.apply)


def test_accelerate_works_as_a_decorator():
    @torch_ext.accelerate
    class Decorated(make_double()):
        pass

    assert runs_on_torch_ext(Decorated.apply)


def test_accelerate_twice_is_accelerate_once():
    cls = torch_ext.accelerate(make_double())
    once = attributes(cls)
    torch_ext.accelerate(cls)
    assert attributes(cls) == once
    assert runs_on_torch_ext(cls.apply)


def test_accelerate_takes_what_runs_on_it_already():
    derived = make_double(torch_ext.Function)
    assert torch_ext.accelerate(derived) is derived
    assert runs_on_torch_ext(derived.apply)
    assert torch_ext.accelerate(torch_ext.Function) is torch_ext.Function


def test_accelerate_survives_install_and_uninstall():
    cls = torch_ext.accelerate(make_double())
    torch_ext.install()
    assert runs_on_torch_ext(cls.apply)
    torch_ext.uninstall()
    assert runs_on_torch_ext(cls.apply)


def test_accelerate_while_installed_outlives_it():
    with torch_ext.installed():
        cls = torch_ext.accelerate(make_double())
    assert runs_on_torch_ext(cls.apply)


def test_accelerate_keeps_an_alias_taken_before():
    cls = make_double()
    alias = cls.apply
    torch_ext.accelerate(cls)
    assert not runs_on_torch_ext(alias)
    assert runs_on_torch_ext(cls.apply)


class NotAFunction:
    @classmethod
    def apply(cls, x):
        return x


@pytest.mark.parametrize(
    "wrong",
    [None, 3, "Double", torch.sin, NotAFunction, NotAFunction(), torch.Tensor, Function.apply],
    ids=["None", "int", "str", "builtin", "class", "instance", "Tensor", "apply"],
)
def test_accelerate_rejects_what_is_no_function_class(wrong):
    with pytest.raises(TypeError, match=r"torch.autograd.Function"):
        torch_ext.accelerate(wrong)


def test_accelerate_rejects_the_base_class():
    with pytest.raises(TypeError, match=r"use torch_ext.install\(\)"):
        torch_ext.accelerate(Function)
    assert not torch_ext.is_installed()


def test_accelerate_rejects_a_class_whose_apply_it_would_hide():
    class Own(make_double()):
        @classmethod
        def apply(cls, x):
            return super().apply(x)

    class Derived(Own):
        pass

    for cls in Own, Derived:
        with pytest.raises(TypeError, match="has an apply of its own"):
            torch_ext.accelerate(cls)
    torch_ext.accelerate(Own.__base__)
    assert runs_on_torch_ext(Derived.apply)


def test_a_rejected_class_is_unchanged():
    before = attributes(NotAFunction), attributes(Function)
    for cls in NotAFunction, Function:
        with pytest.raises(TypeError):
            torch_ext.accelerate(cls)
    assert (attributes(NotAFunction), attributes(Function)) == before


def test_accelerate_a_class_that_was_used_before():
    cls = make_double()
    x = leaf()
    old = cls.apply(x)
    torch_ext.accelerate(cls)
    new = cls.apply(old)
    assert [is_ours(old.grad_fn), is_ours(new.grad_fn)] == [False, True]
    new.sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 4))


def test_uninstall_keeps_what_accelerated_classes_need():
    cls = torch_ext.accelerate(make_double())
    with torch_ext.installed():
        first = cls.apply(leaf())
    assert type(cls.apply(leaf()).grad_fn) is type(first.grad_fn)


# Threads


def test_install_from_many_threads():
    before = attributes(Function)
    in_threads(lambda index: torch_ext.install())
    assert torch_ext.is_installed()
    assert runs_on_torch_ext(make_double().apply)
    in_threads(lambda index: torch_ext.uninstall())
    assert not torch_ext.is_installed()
    assert attributes(Function) == before


def test_install_and_uninstall_from_many_threads_at_once():
    before = attributes(Function)

    def work(index):
        for _ in range(50):
            (torch_ext.install if index % 2 else torch_ext.uninstall)()

    in_threads(work)
    torch_ext.uninstall()
    assert not torch_ext.is_installed()
    assert attributes(Function) == before


def test_calls_while_other_threads_install_and_uninstall():
    cls = make_double()
    before = attributes(Function), attributes(cls), attributes(cls._backward_cls)

    def work(index):
        for _ in range(50):
            if index < 2:
                torch_ext.install()
                torch_ext.uninstall()
            else:
                runs_on_torch_ext(cls.apply)
                runs_on_torch_ext(make_double().apply)

    in_threads(work)
    torch_ext.uninstall()
    gc.collect()
    after = attributes(Function), attributes(cls), attributes(cls._backward_cls)
    assert after == before


def test_first_use_of_a_class_from_many_threads():
    for _ in range(20):
        cls = make_double()
        with torch_ext.installed():
            kinds = [None] * THREADS

            def work(index):
                y = cls.apply(leaf())
                y.sum().backward()
                kinds[index] = type(y.grad_fn)

            in_threads(work)
            (kind,) = set(kinds)
            assert issubclass(kind, cls._backward_cls)


def test_accelerate_from_many_threads():
    cls = make_double()
    in_threads(lambda index: torch_ext.accelerate(cls))
    assert runs_on_torch_ext(cls.apply)


def test_isinstance_holds_for_nodes_from_before_and_after():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    x = torch.ones(1, requires_grad=True)
    stock = Double.apply(x).grad_fn
    with torch_ext.installed():
        ours = Double.apply(x).grad_fn
        assert isinstance(ours, Double._backward_cls)
        assert isinstance(stock, Double._backward_cls)
        assert not isinstance(x.clone().grad_fn, Double._backward_cls)
    assert type(stock) is Double._backward_cls
    assert isinstance(ours, Double._backward_cls)
