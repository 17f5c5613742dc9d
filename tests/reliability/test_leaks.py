# SPDX-License-Identifier: BSD-3-Clause
"""Ordinary calls, cycles and a million calls leave nothing behind. ``make leaks`` runs all scenarios for that."""

import gc
import itertools
import multiprocessing
import resource
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

import cycles
import pytest
import torch
from bodies import BODIES
from harness import torch_is_since
from harness.levels import FREE_THREADED, grows

import torch_ext
from torch_ext._compat import has_node

REPEAT = 1000


@pytest.fixture
def frozen():
    """Collections pass over what was there before, so they are quick."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


# Those that take milliseconds for each run.
SLOW = {
    "profiled_call",
    "anomaly_mode",
    "failure_in_anomaly_mode",
    "change_that_is_named",
    "graph_that_was_freed",
    "cycle_that_is_collected",
    "cycles_that_are_collected",
}


MAKES_A_CLASS = {"first_use_of_a_class", "installation", "view_of_an_input"}


def make_a_class():
    """On Python without a GIL each class leaves a block behind."""
    return type("Unused", (), {})


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] * (n in SLOW)) for n in BODIES])
def test_a_thousand_runs_leave_nothing(name, frozen):
    lost = grows(BODIES[name], REPEAT, REPEAT)
    if lost and name in MAKES_A_CLASS:
        lost -= grows(make_a_class, REPEAT)
    assert not lost


# --- Cycles ------------------------------------------------------------------


def bases():
    """What to derive from, on stock torch and on torch_ext."""
    yield "stock", torch.autograd.Function
    yield "ours", torch_ext.Function
    with torch_ext.installed():
        yield "installed", torch.autograd.Function


def left_by(make, *arguments):
    return {name for name, base in bases() if cycles.outlives(make, base, *arguments)}


@pytest.mark.parametrize("state", cycles.STATES)
@pytest.mark.parametrize("kept", cycles.KEPT)
def test_cycle_is_collected(kept, state, frozen):
    for place in cycles.PLACES:
        left = left_by(cycles.make_cycle, kept, place, state)
        assert not left or "stock" in left, place
        if torch_is_since("2.13"):  # before, the node owns its ctx
            assert not left - {"stock"} or cycles.is_kept_by_the_base(kept, place), place


@pytest.mark.parametrize("make", cycles.PACKED)
def test_cycle_through_pack_hooks_is_collected(make, frozen):
    left = left_by(make)
    assert not left or "stock" in left
    if torch_is_since("2.13"):
        assert left == {"stock"}


@pytest.mark.parametrize("make", cycles.OTHER_WAYS)
def test_cycle_in_another_way_is_collected(make, frozen):
    assert left_by(make) == set()


@pytest.mark.parametrize("make", cycles.NOT_COLLECTED)
def test_cycle_is_not_collected(make, frozen):
    """What docs/reliability.md says. If it is collected one day, the page has to say so."""
    assert left_by(make) == {"stock", "ours", "installed"}


def test_only_full_collections_take_two_outputs(frozen):
    def kept():
        return sum(issubclass(type(obj), torch._C._FunctionBase) for obj in gc.get_objects())

    before = kept()
    cycles.make_cycle(torch_ext.Function, "two outputs", cycles.in_a_list, "before backward")
    if not FREE_THREADED:  # without a GIL all collections are full
        gc.collect(1)
        assert kept() > before
    gc.collect()
    assert kept() == before or not torch_is_since("2.13")


def nodes_behind(thing):
    """The nodes of Functions that a tensor or a node leads to by edges."""
    found, todo = [], [getattr(thing, "grad_fn", thing)]
    while todo:
        node = todo.pop()
        if isinstance(node, torch._C._FunctionBase):
            found.append(node)
        if not isinstance(node, torch._C._FunctionBase) or has_node(node):
            todo += [n for n, _ in getattr(node, "next_functions", ()) if n is not None]
    return found


def others(ys, things):
    """What else may hold something of a call that returned ``ys`` and whose node keeps ``things``."""
    return {
        "an output": ys[-1],
        "an edge": ys[-1] * 1,
        "a later node": (ys[0] + 1).grad_fn,
        "a view": ys[0].flatten()[1:],
        "the node": ys[0].grad_fn,
        "a thing": things[0],
        "the list": things,
    }


@pytest.mark.parametrize("other", others([torch.ones(1)], [None]))
@pytest.mark.parametrize("kept", cycles.KEPT)
def test_what_is_in_use_is_not_collected(kept, other, frozen):
    outputs, keep = cycles.KEPT[kept]
    ys = cycles.called(torch_ext.Function, outputs)
    things = keep(*ys)
    ys[0].grad_fn.kept = things
    count = len(things)
    held = others(ys, things)[other]
    del ys, things
    for _ in range(3):
        gc.collect()
    for node in nodes_behind(held[0] if other == "the list" else held):
        kept_by_it = getattr(node, "kept", [])
        assert len(kept_by_it) in (0, count)
        for behind in itertools.chain.from_iterable(map(nodes_behind, kept_by_it)):
            if has_node(behind):  # before torch 2.13 a kept ctx outlives its node, which takes what it saved along
                assert behind.saved_tensors[0].tolist() and behind.needs_input_grad == (True,)
    if isinstance(held, torch.Tensor) and held.requires_grad:
        held.sum().backward()


@pytest.mark.parametrize("kept", cycles.KEPT)
def test_no_reference_is_shown_twice(kept, frozen):
    """If the collector is shown more references to an object than there are, it takes what is in use."""
    (note,) = [callback for callback in gc.callbacks if callback.__name__ == "torch_ext_note_collection"]
    for place in cycles.PLACES:
        outputs, keep = cycles.KEPT[kept]
        ys = cycles.called(torch_ext.Function, outputs)
        node = ys[0].grad_fn
        place(node, ys[0], keep(*ys))
        del ys
        gc.disable()
        try:
            note("start", {"generation": 2})
            shown = len(gc.get_referrers(node))
            # The variable is not shown, nor is the argument of getrefcount, which from Python 3.14 on only borrows.
            nothing_else = object()
            assert shown <= sys.getrefcount(node) - sys.getrefcount(nothing_else), place
        finally:
            note("stop", {"generation": 2})
            gc.enable()


class BringsBack:
    def __init__(self, node, back):
        self.node, self.back = node, back

    def __del__(self):
        self.back.append(self.node)


if torch_is_since("2.13"):

    def test_a_node_with_two_outputs_that_is_brought_back_is_whole(frozen):
        before = cycles.living()
        y, z = cycles.called(torch_ext.Function, 2)
        back = []
        y.grad_fn.kept = [y, z, BringsBack(y.grad_fn, back)]
        del y, z
        gc.collect()
        (node,) = back
        y, z, _ = node.kept
        assert y.grad_fn is node and z.tolist() == [3] * 4
        y.sum().backward()
        del node, y, z, _
        back.clear()
        assert cycles.living() == before


def test_collections_while_other_threads_run_backward():
    """The outputs belong to the ctx alone, but for a thread that has the sum of them."""
    wrong = []

    def work():
        for _ in range(150):
            leaf = torch.ones(4, requires_grad=True)
            ys = cycles.make_function(torch_ext.Function, 2).apply(leaf * 1)
            node, total = ys[0].grad_fn, ys[0].sum() + ys[1].view(2, 2).sum()
            node.kept = [*ys, ys[1].view(2, 2), total * 1]
            del ys, node
            total.backward()
            if leaf.grad.tolist() != [2] * 4:
                wrong.append(leaf.grad)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        gc.collect()
    assert not wrong


# --- A million calls ---------------------------------------------------------


class Double(torch_ext.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def failing():
    try:  # noqa: SIM105 (a million times)
        Double.apply(3, 4)
    except TypeError:
        pass


x = torch.ones(4, requires_grad=True)

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
