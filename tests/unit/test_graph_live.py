# SPDX-License-Identifier: BSD-3-Clause
"""torch_ext.graph.live: graphs that are alive, by line, with their sizes and ages, who holds them, what has grown."""

import collections
import dataclasses
import gc
import json
import re
import runpy
import sys
import threading
import types
import weakref
from pathlib import Path

import expecttest
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import torch_ext
from torch_ext import _compat
from torch_ext.graph import live

STEPS = 7


def is_graphs(cls):
    return torch.Tensor in cls.__mro__ or _compat.is_node_class(cls)


@pytest.fixture(autouse=True)
def noted(recwarn, monkeypatch):
    """Nodes note their lines, and what the tests before have left is not seen."""
    gc.collect()
    before = [each for each in gc.get_objects() if is_graphs(type(each))]
    numbers = set(map(id, before))
    new = lambda: [each for each in torch_ext._C.graph_objects() if id(each) not in numbers]  # noqa: E731
    monkeypatch.setattr(sys.modules["torch_ext.graph.live"], "_objects", new)
    with torch_ext.detect_anomaly(check_nan=False):
        yield


def make_loss(w):
    return (w.exp() * 2).sum()  # the line of each graph


def leaf():
    return torch.ones(8, requires_grad=True)


class Keeper:
    pass


class Plain(torch.Tensor):
    pass


class Slotted:
    __slots__ = ("kept",)


def steps(backward=True):
    """The losses of a training's steps."""
    w = leaf()
    for _ in range(STEPS):
        loss = make_loss(w)
        if backward:
            loss.backward()
        yield loss


# --- Who holds them -------------------------------------------------------------------------------------------------


def a_list():
    return list(steps()), f"a list of {STEPS}"


def an_attribute():
    keeper = Keeper()
    keeper.losses = list(steps())
    return keeper, f"a list of {STEPS}, attribute losses of a Keeper"


def a_slot():
    keeper = Slotted()
    keeper.kept = list(steps())
    return keeper, f"a list of {STEPS}, attribute kept of a Slotted"


def a_class():
    class Trainer:
        pass

    Trainer.losses = list(steps())
    return Trainer, f"a list of {STEPS}, attribute losses of class Trainer"


def a_global():
    module = types.ModuleType("training")
    module.LOSSES = list(steps())
    return module, f"a list of {STEPS}, global variable LOSSES of module training"


def a_deque():
    return collections.deque(steps(), maxlen=100), f"a deque of {STEPS}"


def a_dict():
    return dict(enumerate(steps())), f"a dict of {STEPS}"


def a_set():
    return set(steps()), f"a set of {STEPS}"


def nodes():
    keeper = Keeper()
    keeper.nodes = [loss.grad_fn for loss in steps()]
    return keeper, f"a list of {STEPS}, attribute nodes of a Keeper"


def a_dict_of_lists():
    keeper = Keeper()
    keeper.history = {"loss": list(steps()), "step": list(range(STEPS))}
    return keeper, f"a list of {STEPS}, a dict of 2, attribute history of a Keeper"


def a_module():
    net = nn.Linear(2, 2)
    net.losses = list(steps())
    return net, f"a list of {STEPS}, attribute losses of a Linear"


def a_closure():
    losses = list(steps())
    return (lambda: losses), f"a list of {STEPS}, a variable of an enclosing function"


def a_default():
    losses = tuple(steps())

    def function(losses=losses):
        return losses

    del losses
    return function, f"a tuple of {STEPS}, a tuple of 1, a default argument of function (test_graph_live.py:N)"


def a_generator():
    def keeping():
        losses = list(steps())
        yield len(losses)
        yield losses

    generator = keeping()
    next(generator)
    return generator, f"a list of {STEPS}, a local variable of keeping (test_graph_live.py:N)"


def a_traceback():
    def failing():
        losses = list(steps())
        raise ValueError(len(losses))

    try:
        failing()
    except ValueError as error:
        return error, f"a list of {STEPS}, a local variable of failing (test_graph_live.py:N)"


def a_local_variable():
    return tuple(steps())[-1], "a local variable or C++ code"


KEPT_IN = [
    a_list, an_attribute, a_slot, a_class, a_global, a_deque, a_dict, a_set, nodes, a_dict_of_lists, a_module,
    a_closure, a_default, a_generator, a_traceback, a_local_variable,
]  # fmt: skip


@pytest.mark.parametrize("build", KEPT_IN, ids=lambda build: build.__name__)
def test_who_holds_them(build):
    kept, expected = build()
    current = [make_loss(leaf()) * 2 for _ in range(1)]  # this step's own graph, which is all right
    found = live()
    first = found.rows[0] if build is not a_local_variable else found.rows[-1]
    assert first.line.source == "return (w.exp() * 2).sum()  # the line of each graph"
    assert re.sub(r"py:\d+", "py:N", first.held_by) == expected
    del kept, current


# --- How they are kept, and how they came about -----------------------------------------------------------------------


def total(backward):
    w = leaf()
    running = 0.0
    for _ in range(STEPS):
        loss = make_loss(w)
        if backward:
            loss.backward()
        running += loss  # grows by a graph a step
    return running


def hidden_state():
    w, state = leaf(), torch.ones(8)
    for _ in range(STEPS):
        state = (state * w).tanh()  # of an earlier step
        state.sum().backward(retain_graph=True)
    return state


def graph_in_grad():
    net = nn.Linear(2, 2)
    net(torch.ones(2)).exp().sum().backward(create_graph=True)
    return net


def of_a_function():
    class Twice(torch_ext.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x.clone())
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    return Twice.apply(leaf())


def of_a_thread():
    result = []
    thread = threading.Thread(target=lambda: result.append(make_loss(leaf())))
    thread.start()
    thread.join()
    return result


def stale_view():
    x = leaf().exp()
    part = x[:4]
    x.mul_(3)
    return part


def part_of_a_retained_graph():
    w = leaf()
    losses = []
    for _ in range(STEPS):
        loss = make_loss(w)
        loss.backward(retain_graph=True)
        losses.append(loss)
    return losses


F4, SCALAR = 4, 8

PROGRAMS = {
    # name: (what is built, the first row's node, graphs, nodes, bytes, nodes freed, youngest, oldest)
    "kept losses": (lambda: list(steps()), "SumBackward0", STEPS, 3 * STEPS, 0, 3 * STEPS, 1, STEPS),
    "before any backward": (
        lambda: list(steps(False)), "SumBackward0", STEPS, 3 * STEPS, STEPS * (8 * F4 + SCALAR), 0, 0, 0,
    ),
    "a sum of losses": (lambda: total(True), "AddBackward0", 1, 4 * STEPS, 0, None, 0, STEPS),
    "a sum in evaluation": (lambda: total(False), "AddBackward0", 1, 4 * STEPS, STEPS * (8 * F4 + SCALAR), 0, 0, 0),
    "a hidden state": (hidden_state, "TanhBackward0", 1, 2 * STEPS, STEPS * 8 * F4 + 8 * F4, 0, 1, STEPS),
    "retained": (
        part_of_a_retained_graph, "SumBackward0", STEPS, 3 * STEPS, STEPS * (8 * F4 + SCALAR), 0, 1, STEPS,
    ),
    "a Function": (of_a_function, "TwiceBackward", 1, 1, 8 * F4, 0, 0, 0),
    "another thread's": (of_a_thread, "SumBackward0", 1, 3, 8 * F4 + SCALAR, 0, 0, 0),
    "a node": (lambda: make_loss(leaf()).grad_fn, "SumBackward0", 1, 3, 8 * F4 + SCALAR, 0, 0, 0),
    "an inner node": (
        lambda: make_loss(leaf()).grad_fn.next_functions[0][0], "MulBackward0", 1, 2, 8 * F4 + SCALAR, 0, 0, 0,
    ),
    "a tensor and its node": (
        lambda: [(each, each.grad_fn) for each in steps(False)], "SumBackward0", STEPS, 3 * STEPS, None, 0, 0, 0,
    ),
    "a view whose base was changed": (stale_view, "MulBackward0", 1, 2, None, 0, 0, 0),
    "a subclass": (lambda: leaf().as_subclass(Plain).exp(), "AliasBackward0", 1, 3, None, 0, 0, 0),
    "a checkpoint": (
        lambda: checkpoint(lambda x: x.exp().exp(), leaf(), use_reentrant=False), "ExpBackward0", 1, 2, 0, 0, 0, 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_rows(name):
    build, node, graphs, nodes, size, freed, youngest, oldest = PROGRAMS[name]
    kept = build()
    found = live()
    row = found.rows[0]
    assert (row.node, row.graphs, row.nodes) == (node, graphs, nodes)
    assert size is None or row.bytes == size
    assert freed is None or row.freed == freed
    assert (row.youngest, row.oldest) == (youngest, oldest)
    if name != "a checkpoint":  # before torch 2.13 that keeps a node of its own
        assert (found.graphs, found.nodes, found.bytes) == (graphs, nodes, row.bytes)
    assert row.line.file == __file__ and found.unnoted == 0
    del kept


def test_a_graph_in_a_grad():
    net = graph_in_grad()
    found = live()
    # Who forgets create_graph=True has a graph in each parameter's grad.
    assert found.graphs == 2 and {row.held_by for row in found.rows} == {"the grad of a leaf"}
    del net


def test_no_graph():
    parameter, data = nn.Parameter(torch.ones(2)), torch.ones(2)
    accumulator = parameter.expand_as(parameter).grad_fn.next_functions[0][0]
    found = live()
    assert (found.rows, found.graphs, found.nodes, found.bytes) == ((), 0, 0, 0)
    del accumulator, data


def test_nodes_that_were_not_noted():
    torch_ext.set_detect_anomaly(False)
    kept = list(steps())
    torch_ext.set_detect_anomaly(True, check_nan=False)
    newer = make_loss(leaf())
    for _ in range(2):  # looking notes nothing
        found = live()
        assert found.unnoted == 3 * STEPS
        rows = [(row.graphs, row.oldest, row.line is None) for row in found.rows]
        assert rows == [(1, 0, False), (STEPS, None, True)]
        assert torch_ext._C.notes_of(kept[0].grad_fn) is None
    del kept, newer


def test_kept_losses_come_before_larger_graphs():
    kept = list(steps())
    large = (torch.ones(100_000, requires_grad=True).exp() * 2).exp()
    found = live()
    assert [row.graphs for row in found.rows] == [STEPS, 1]
    assert found.rows[1].bytes > 1000 * found.rows[0].bytes
    del kept, large


# --- It only looks --------------------------------------------------------------------------------------------------


def test_it_keeps_nothing_alive_and_does_not_count_itself():
    losses = list(steps())
    first, second = live(), live(since=live())
    again = live()
    assert again == first and second.rows == ()
    watch = weakref.ref(losses[0])
    losses.clear()
    assert watch() is None
    assert live().graphs == 0
    json.dumps(dataclasses.asdict(first))  # names and numbers only


def test_it_runs_no_code_of_a_subclass_and_makes_no_node():
    class Loud(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            raise AssertionError(f"somebody called {function}")

    with torch._C.DisableTorchFunctionSubclass():
        kept = [leaf().as_subclass(Loud), leaf().exp().as_subclass(Loud)]
    part = stale_view()
    before = leaf().exp().grad_fn._sequence_nr()
    live()
    assert leaf().exp().grad_fn._sequence_nr() == before + 1
    del kept, part


def test_objects_that_answer_to_everything_are_not_asked():
    class Loud:
        def __getattribute__(self, name):
            raise AssertionError(f"somebody asked for {name}")

    keeper = Loud()
    object.__setattr__(keeper, "losses", list(steps()))
    assert live().rows[0].held_by == f"a list of {STEPS}, attribute losses of a Loud"


# --- What has grown -------------------------------------------------------------------------------------------------


def test_since():
    kept = [make_loss(leaf()) for _ in range(3)]
    before = live()
    assert live(since=before).rows == ()
    kept += [make_loss(leaf()) for _ in range(2)]
    other = leaf().exp()
    grown = live(since=before)
    assert [(row.node, row.graphs, row.more_graphs, row.more_nodes, row.more_bytes) for row in grown.rows] == [
        ("SumBackward0", 5, 2, 6, 2 * (8 * F4 + SCALAR)),
        ("ExpBackward0", 1, 1, 1, 8 * F4),
    ]
    assert grown.rows[0].held_by == "a list of 5"
    # A result with since serves as well.
    assert live(since=grown).rows == ()
    kept.clear()
    assert [row.node for row in live(since=dataclasses.replace(before, all_rows=())).rows] == ["ExpBackward0"]
    del other


# --- What it says ---------------------------------------------------------------------------------------------------


def without_lines(found):
    text = str(found)
    assert max(map(len, text.splitlines())) <= 100
    return re.sub(r"(test_graph_live\.py):\d+", r"\1:N", text)


def test_text():
    keeper = Keeper()
    keeper.losses = list(steps())
    current = leaf().exp().sin()
    expecttest.assert_expected_inline(
        without_lines(live()),
        """\
8 graphs are alive: 23 nodes, 32 B kept for backward.

  graphs  nodes  bytes  freed     age  made by
       7     21    0 B    yes  1 to 7  test_graph_live.py:N  return (w.exp() * 2).sum()  # the l...
    held by a list of 7, attribute losses of a Keeper
       1      2   32 B     no       0  test_graph_live.py:N  current = leaf().exp().sin()
    held by a local variable or C++ code""",
    )
    del current


def test_text_of_what_has_grown():
    kept = list(steps(False))
    before = live()
    kept += steps(False)
    expecttest.assert_expected_inline(
        without_lines(live(since=before)),
        """\
14 graphs are alive: 42 nodes, 560 B kept for backward.
Grown since then:
   graphs     nodes           bytes  freed  age  made by
  14 (+7)  42 (+21)  560 B (+280 B)     no    0  test_graph_live.py:N  return (w.exp() * 2).sum(...
    held by a list of 14""",
    )
    expecttest.assert_expected_inline(
        without_lines(live(since=live())),
        """\
14 graphs are alive: 42 nodes, 560 B kept for backward.
None has grown.""",
    )


def test_text_without_notes():
    torch_ext.set_detect_anomaly(False)
    kept = list(steps())
    expecttest.assert_expected_inline(
        without_lines(live()),
        """\
7 graphs are alive: 21 nodes, 0 B kept for backward.
Of 21 nodes line and age are not known: they were not noted.

  graphs  nodes  bytes  freed  age  made by
       7     21    0 B      -    -  SumBackward0 (line not noted)
    held by a list of 7""",
    )
    del kept


def test_text_of_one_graph():
    current = leaf().exp().sin()
    text = re.sub("test_graph_live", "here", without_lines(live()))
    expecttest.assert_expected_inline(
        text,
        """\
1 graph is alive: 2 nodes, 32 B kept for backward.

  graphs  nodes  bytes  freed  age  made by
       1      2   32 B     no    0  here.py:N  current = leaf().exp().sin()
    held by a local variable or C++ code""",
    )
    del current


def test_text_without_graphs():
    expecttest.assert_expected_inline(without_lines(live()), """No graph is alive.""")


def test_example(capsys):
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "kept_losses.py"))["main"]()
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r" *100 \(\+80\) .* kept_losses.py:\d+  loss = nn", lines[3])
    assert lines[4] == "    held by a list of 100, attribute losses of a Trainer"


def test_json():
    kept = list(steps())
    data = json.loads(live().to_json())
    assert data["graphs"] == data["rows"][0]["graphs"] == STEPS and "all_rows" not in data
    del kept
