# SPDX-License-Identifier: BSD-3-Clause
"""Several devices: a thread of the engine for each, and a current device that backward sets and restores."""

import threading

import pytest
import torch
from harness import devices, scenario
from harness.engine import prepare, settle
from harness.small_functions import make_product, make_square


@pytest.fixture(scope="module", autouse=True)
def both_prepared(request):
    prepare(both(request.config.stash[devices.CHOICE])[1])


def both(s):
    """The first two devices of the type that the scenario's is of."""
    return torch.device(s.device.type, 0), torch.device(s.device.type, 1)


def make_move(s):
    """x on another device; records the current one."""

    class Move(s.Function):
        @staticmethod
        def forward(ctx, x, device):
            ctx.device = x.device
            return x.to(device)

        @staticmethod
        def backward(ctx, grad):
            s.record("current in backward", s.device_module.current_device(), grad.device)
            return grad.to(ctx.device), None

    return Move.apply


@scenario
def there_and_back(s):
    here, there = both(s)
    move, square = make_move(s), make_square(s.Function).apply
    x = s.randn(3).to(here).requires_grad_()
    y = square(move(square(move(square(x), there)), here))
    y.sum().backward()
    s.record("input", x, s.device_module.current_device())
    settle(there)


@scenario
def calls_under_another_current_device(s):
    here, there = both(s)
    move, square = make_move(s), make_square(s.Function).apply
    x = s.randn(3).to(there).requires_grad_()
    with s.device_module.device(there):
        y = move(square(x), here)
        y.sum().backward()
        s.record("current", s.device_module.current_device())
    with s.device_module.device(here):
        move(square(x), here).sum().backward()
        s.record("current", s.device_module.current_device())
    s.record("input", x)
    settle(there)


@scenario
def a_thread_for_each_device(s):
    here, there = both(s)
    idents = {here: set(), there: set()}

    class Notes(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            idents[grad.device].add(threading.get_ident())
            return grad * 2

    leaves = [s.randn(3).to(device).requires_grad_() for device in (here, there)]
    for _ in range(5):
        torch.autograd.backward([Notes.apply(Notes.apply(x)).sum() for x in leaves])
    s.record("threads", [len(each) for each in idents.values()], idents[here] == idents[there])
    s.record("leaves", leaves)
    settle(there)


@scenario
def inputs_on_two_devices(s):
    here, there = both(s)

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
        a, b = s.randn(3).to(here).requires_grad_(), s.randn(3).to(there).requires_grad_()
        first, second = Pair.apply(a, b)
        s.outcome("backward", lambda: (first.sum() + second.sum().to(here)).backward())
        s.record("inputs", a, b)
    settle(there)


@scenario
def streams_of_two_devices(s):
    here, there = both(s)
    square, product, move = make_square(s.Function).apply, make_product(s.Function).apply, make_move(s)
    streams = [s.device_module.Stream(device) for device in (here, there)]
    x = s.randn(1000).to(here).requires_grad_()
    for stream in streams:
        stream.wait_stream(s.device_module.current_stream(here))
    with s.device_module.stream(streams[0]):
        a = square(x)
    streams[1].wait_stream(streams[0])
    with s.device_module.stream(streams[1]):
        b = square(move(a, there))
    s.device_module.current_stream(there).wait_stream(streams[1])
    s.device_module.current_stream(here).wait_stream(streams[0])
    product(move(b, here), x).sum().backward()
    s.record("input", x)
    settle(there)


@scenario
def data_parallel(s):
    here, there = both(s)

    class Scale(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(s.randn(4))

        def forward(self, x):
            return make_product(s.Function).apply(x, self.weight.expand_as(x))

    module = torch.nn.DataParallel(Scale().to(here), device_ids=[0, 1])
    out = module(s.randn(6, 4).to(here))
    out.sum().backward()
    s.record("output", out, module.module.weight.grad)
    settle(there)
