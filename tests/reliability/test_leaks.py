# SPDX-License-Identifier: BSD-3-Clause
"""Ordinary calls, cycles and a million calls leave nothing behind. ``make leaks`` runs all scenarios for that."""

import gc
import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from bodies import BODIES
from harness import torch_is_since
from harness.levels import grows

import torch_ext

REPEAT = 1000


@pytest.fixture
def frozen():
    """Collections pass over what was there before, so they are quick."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


# Those that take milliseconds for each run.
SLOW = {"profiled_call", "anomaly_mode", "failure_in_anomaly_mode", "cycle_that_is_collected"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] * (n in SLOW)) for n in BODIES])
def test_a_thousand_runs_leave_nothing(name, frozen):
    lost = grows(BODIES[name], REPEAT)
    assert not lost or not (lost & grows(BODIES[name], REPEAT))


# --- Cycles ------------------------------------------------------------------


class Double(torch_ext.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


class StockDouble(torch.autograd.Function):
    forward = Double.forward
    backward = Double.backward


def leaf():
    return torch.ones(4, requires_grad=True)


def through_ctx(function):
    y = function.apply(leaf())
    y.grad_fn.output = y
    return y


def through_two_nodes(function):
    y = function.apply(leaf())
    z = function.apply(y)
    y.grad_fn.other = z
    return z


def through_a_saved_input(function):
    x = leaf().clone()
    x.result = function.apply(x)
    return x


def through_a_saved_output(function):
    class Exp(function):
        @staticmethod
        def forward(ctx, x):
            ctx.result = x.exp()
            ctx.save_for_backward(ctx.result)
            return ctx.result

    return Exp.apply(leaf())


def through_a_view_marked_dirty(function):
    class Times(function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            ctx.changed = x
            return x.mul_(2)

    base = leaf() * 1
    base.result = Times.apply(base.view(2, 2))
    return base


def through_a_tensor_marked_dirty(function):
    class Times(function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            ctx.changed = x
            return x.mul_(2)

    return Times.apply(leaf() * 1)


def through_a_tensor_hook(function):
    y = function.apply(leaf())
    y.register_hook(lambda grad, y=y: None)
    return y


def through_a_hook_of_a_leaf(function):
    x = leaf()
    x.register_post_accumulate_grad_hook(lambda x, alias=x: None)
    x.register_hook(lambda grad, alias=x: None)
    return x


def through_node_hooks(function):
    y = function.apply(leaf())
    y.grad_fn.register_prehook(lambda grads, y=y: None)
    y.grad_fn.register_hook(lambda ins, outs, y=y: None)
    return y


def through_anomaly_metadata(function):
    y = function.apply(leaf())
    y.grad_fn.metadata["output"] = y
    return y


def through_the_class(function):
    class Own(function):
        pass

    Own.last = Own.apply(leaf())
    return Own.last


def after_backward(function):
    y = through_ctx(function)
    y.sum().backward()
    return y


CYCLES = [value for name, value in list(globals().items()) if name.startswith(("through_", "after_"))]


def tensors():
    gc.collect()
    return sum(issubclass(type(obj), torch.Tensor) for obj in gc.get_objects())


def outlives(make, function):
    """Whether what make(function) returns outlives a garbage collection.

    A weak reference doesn't tell: the collector clears it before it calls finalisers, which may keep the object alive.
    """
    before = tensors()
    make(function)
    return tensors() > before


@pytest.mark.parametrize("make", CYCLES)
def test_cycle_is_collected_where_torch_collects_it(make):
    assert not outlives(make, Double) or outlives(make, StockDouble)


COLLECTED = [through_ctx, through_a_saved_input, through_a_saved_output, after_backward]
if torch_is_since("2.13"):  # before, the node owns its ctx
    COLLECTED += [through_a_tensor_hook, through_node_hooks, through_anomaly_metadata]


@pytest.mark.parametrize("make", COLLECTED)
def test_cycle_is_collected(make):
    assert not outlives(make, Double)


# --- A million calls ---------------------------------------------------------


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def failing():
    try:  # noqa: SIM105 (a million times)
        Double.apply(3, 4)
    except TypeError:
        pass


x = leaf()

MILLIONS = {
    "forward": lambda: Double.apply(x),
    "forward and backward": lambda: Double.apply(x).backward(x),
    "failing calls": failing,
}


def growth(name):
    """By how many bytes a million calls increase the resident memory."""
    call = MILLIONS[name]
    for _ in range(10_000):
        call()
    before = resident()
    for _ in range(1_000_000):
        call()
    return resident() - before


@pytest.mark.long
@pytest.mark.parametrize("name", MILLIONS)
def test_resident_memory_is_flat_over_a_million_calls(name):
    # In a process of its own: what the profiler freed, for example, would make the heap grow again much later.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        assert process.submit(growth, name).result() < 1_000_000, "a byte a call"
