# SPDX-License-Identifier: BSD-3-Clause
"""The stack that a node notes is the one that Python tells, in whatever way Python got into its frames."""

import contextvars
import functools
import gc
import re
import sys
import threading
import traceback

import pytest
import torch

import torch_ext
from torch_ext import anomaly
from torch_ext.anomaly.graph import frames_of, metadata_of
from torch_ext.graph import noting


def leaf():
    return torch.ones(3, requires_grad=True)


def probe(*_):
    """What a node notes, and what Python tells on the same line."""
    node, told = (leaf() * 2).grad_fn, traceback.extract_stack()
    noted = [(frame.file, frame.line, frame.function) for frame in frames_of(metadata_of(node))]
    return noted, [(entry.filename, entry.lineno, entry.name) for entry in told]


# --- Ways into a frame, each with what probe() found ----------------------------------------------


def in_a_call_from_c():
    found = []
    re.sub("a", lambda _: found.append(probe()) or "", "a")
    sorted([0], key=lambda _: found.append(probe()) or 0)
    found.extend(map(probe, [0]))
    found.append(functools.partial(probe)())
    found.append(contextvars.Context().run(probe))
    return found


def in_evaluated_code():
    names = {"probe": probe}
    exec("found = probe()", names)
    return [names["found"], eval("probe()"), eval("(lambda: probe())()")]


def in_a_comprehension():
    return [*[probe() for _ in range(1)], *{i: probe() for i in range(1)}.values(), *(probe() for _ in range(1))]


def in_a_generator():
    def inner():
        yield probe()

    def outer():
        yield from inner()

    return list(outer())


def in_a_coroutine():
    async def inner():
        return [probe()]

    async def outer():
        return await inner()

    with pytest.raises(StopIteration) as stop:
        outer().send(None)
    return stop.value.value


def in_a_class():
    class Body:
        found = probe()
        read = property(probe)

        def __getitem__(self, index):
            return probe()

    return [Body.found, Body().read, Body()[0]]


def in_a_finalizer():
    found = []

    class Mortal:
        def __del__(self):
            found.append(probe())

    Mortal()
    gc.collect()
    return found


def in_a_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(probe()))
    thread.start()
    thread.join()
    return found


def in_backward():
    found = []

    class Probing(torch_ext.Function):
        @staticmethod
        def forward(ctx, x):
            with torch.enable_grad():
                found.append(probe())
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            with torch.enable_grad():
                found.append(probe())
            return grad

    y = Probing.apply(leaf())
    y.register_hook(lambda grad: found.append(torch.enable_grad()(probe)()))
    y.sum().backward()
    return found


def under_a_tracing_function():
    before = sys.gettrace()
    sys.settrace(lambda *args: None)
    try:
        return [probe()]
    finally:
        sys.settrace(before)


def while_an_exception_is_handled():
    try:
        raise ValueError
    except ValueError:
        return [probe()]


def far_down(depth=300):
    return far_down(depth - 1) if depth else [probe()]


WAYS = [
    in_a_call_from_c,
    in_evaluated_code,
    in_a_comprehension,
    in_a_generator,
    in_a_coroutine,
    in_a_class,
    in_a_finalizer,
    in_a_thread,
    in_backward,
    under_a_tracing_function,
    while_an_exception_is_handled,
    far_down,
]


@pytest.mark.parametrize("mode", [noting, lambda: anomaly.detect_anomaly(check_nan=False)], ids=["noting", "anomaly"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_node_notes_the_stack_that_python_tells(way, mode):
    with mode():
        found = way()
    assert found
    for noted, told in found:
        assert noted == told
        assert noted[-1][2] == "probe"


# --- The stack of each node -----------------------------------------------------------------------


def stacks_of(*tensors):
    return [tensor.grad_fn.metadata["traceback_"] for tensor in tensors]


def test_each_line_and_each_round_has_a_stack_of_its_own():
    with noting():
        rounds = [leaf() * 2 for _ in range(2)]
        one = leaf() * 2
        other = leaf() * 2
    stacks = stacks_of(*rounds, one, other)
    assert [stack.frames()[-1][1] for stack in stacks] == sorted(stack.frames()[-1][1] for stack in stacks)
    assert stacks[2] != stacks[3]
    assert stacks[0] != stacks[2]


def test_in_anomaly_mode_each_node_has_a_list_of_its_own():
    with anomaly.detect_anomaly(check_nan=False):
        first, second = (leaf() * 2 for _ in range(2))
    one, other = stacks_of(first, second)
    assert one == other
    one.clear()
    assert other


# --- When metadata is made ------------------------------------------------------------------------


def test_a_node_from_outside_the_mode_has_no_stack():
    made_outside = leaf() * 2
    failing = (leaf() * 0).sqrt() * 0
    with anomaly.detect_anomaly():
        assert made_outside.grad_fn.metadata == {}
        with pytest.raises(RuntimeError, match="nan"), pytest.warns(UserWarning, match="No forward pass information"):
            failing.sum().backward()
    assert "traceback_" not in failing.grad_fn.next_functions[0][0].metadata
