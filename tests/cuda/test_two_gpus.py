# SPDX-License-Identifier: BSD-3-Clause
"""Several GPUs: a thread of the engine for each, and a current device that backward sets and restores."""

import threading

import pytest
import torch
from harness import scenario
from harness.engine import prepare, settle
from harness.small_functions import make_product, make_square

FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)


@pytest.fixture(scope="module", autouse=True)
def both_prepared():
    prepare(SECOND)


def make_move(s):
    """x on another GPU; records the current one."""

    class Move(s.Function):
        @staticmethod
        def forward(ctx, x, device):
            ctx.device = x.device
            return x.to(device)

        @staticmethod
        def backward(ctx, grad):
            s.record("current in backward", torch.cuda.current_device(), grad.device)
            return grad.to(ctx.device), None

    return Move.apply


@scenario
def there_and_back(s):
    move, square = make_move(s), make_square(s.Function).apply
    x = s.randn(3).to(FIRST).requires_grad_()
    y = square(move(square(move(square(x), SECOND)), FIRST))
    y.sum().backward()
    s.record("input", x, torch.cuda.current_device())
    settle(SECOND)


@scenario
def calls_under_another_current_device(s):
    move, square = make_move(s), make_square(s.Function).apply
    x = s.randn(3).to(SECOND).requires_grad_()
    with torch.cuda.device(SECOND):
        y = move(square(x), FIRST)
        y.sum().backward()
        s.record("current", torch.cuda.current_device())
    with torch.cuda.device(FIRST):
        move(square(x), FIRST).sum().backward()
        s.record("current", torch.cuda.current_device())
    s.record("input", x)
    settle(SECOND)


@scenario
def a_thread_for_each_device(s):
    idents = {FIRST: set(), SECOND: set()}

    class Notes(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            idents[grad.device].add(threading.get_ident())
            return grad * 2

    leaves = [s.randn(3).to(device).requires_grad_() for device in (FIRST, SECOND)]
    for _ in range(5):
        torch.autograd.backward([Notes.apply(Notes.apply(x)).sum() for x in leaves])
    s.record("threads", [len(each) for each in idents.values()], idents[FIRST] == idents[SECOND])
    s.record("leaves", leaves)
    settle(SECOND)


@scenario
def inputs_on_two_devices(s):
    class Pair(s.Function):
        @staticmethod
        def forward(ctx, a, b):
            ctx.save_for_backward(a, b)
            return a * 2, b * 3

        @staticmethod
        def backward(ctx, first, second):
            s.record("saved", ctx.saved_tensors, first, second)
            return wrong((first * 2, second * 3))

    for wrong in (tuple, lambda grads: grads[::-1]):
        a, b = s.randn(3).to(FIRST).requires_grad_(), s.randn(3).to(SECOND).requires_grad_()
        first, second = Pair.apply(a, b)
        s.outcome("backward", lambda: (first.sum() + second.sum().to(FIRST)).backward())
        s.record("inputs", a, b)
    settle(SECOND)


@scenario
def streams_of_two_devices(s):
    square, product, move = make_square(s.Function).apply, make_product(s.Function).apply, make_move(s)
    streams = [torch.cuda.Stream(device) for device in (FIRST, SECOND)]
    x = s.randn(1000).to(FIRST).requires_grad_()
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream(FIRST))
    with torch.cuda.stream(streams[0]):
        a = square(x)
    streams[1].wait_stream(streams[0])
    with torch.cuda.stream(streams[1]):
        b = square(move(a, SECOND))
    torch.cuda.current_stream(SECOND).wait_stream(streams[1])
    torch.cuda.current_stream(FIRST).wait_stream(streams[0])
    product(move(b, FIRST), x).sum().backward()
    s.record("input", x)
    settle(SECOND)


@scenario
def data_parallel(s):
    class Scale(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(s.randn(4))

        def forward(self, x):
            return make_product(s.Function).apply(x, self.weight.expand_as(x))

    module = torch.nn.DataParallel(Scale().to(FIRST), device_ids=[0, 1])
    out = module(s.randn(6, 4).to(FIRST))
    out.sum().backward()
    s.record("output", out, module.module.weight.grad)
    settle(SECOND)
