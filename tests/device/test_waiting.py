# SPDX-License-Identifier: BSD-3-Clause
"""Kernels that still run when their values are needed: a stream that nobody waits for gives wrong values."""

import contextlib

import torch
from harness import scenario
from harness.small_functions import make_identity, make_product, make_square

CYCLES = 20_000_000  # a few hundredths of a second: far longer than the launches that follow


@contextlib.contextmanager
def after(s, stream):
    """Work on ``stream``, behind the current one, which waits for it afterwards."""
    around = s.device_module.current_stream()
    stream.wait_stream(around)
    with s.device_module.stream(stream):
        yield
    around.wait_stream(stream)


def make_slow(s, in_forward=False, in_backward=False):
    """x * 2, whose kernels are launched behind one that takes a long time."""

    class Slow(s.Function):
        @staticmethod
        def forward(ctx, x):
            if in_forward:
                s.device_module._sleep(CYCLES)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            if in_backward:
                s.device_module._sleep(CYCLES)
            return grad * 2

    return Slow.apply


@scenario
def slow_gradient_on_a_side_stream(s):
    x = s.randn(100, requires_grad=True)
    square, slow = make_square(s.Function).apply, make_slow(s, in_backward=True)
    with after(s, s.device_module.Stream()):
        y = slow(square(x))
    square(y).sum().backward()
    s.record("input", x)


@scenario
def slow_gradient_of_a_leaf(s):
    """It is accumulated on the leaf's stream, and read on the caller's when backward has returned."""
    x = s.randn(100, requires_grad=True)
    side = s.device_module.Stream()
    for _ in range(3):
        with after(s, side):
            y = make_slow(s, in_backward=True)(x)
        y.sum().backward()
    s.record("input", x)
    s.record("captured", torch.autograd.grad(make_slow(s, in_backward=True)(x).sum(), x))


@scenario
def two_slow_gradients_meet(s):
    x = s.randn(100, requires_grad=True)
    shared = make_square(s.Function).apply(x)
    branches = []
    for _ in range(3):
        with after(s, s.device_module.Stream()):
            branches.append(make_slow(s, in_backward=True)(shared))
    sum(branches).sum().backward()
    s.record("input", x)


@scenario
def slow_forward_and_backward_on_another_stream(s):
    x = s.randn(100, requires_grad=True)
    slow = make_slow(s, in_forward=True, in_backward=True)
    with after(s, s.device_module.Stream()):
        y = make_product(s.Function).apply(slow(x), x)
    with after(s, s.device_module.Stream()):
        y.sum().backward()
    s.record("input", x)


@scenario
def slow_hooks(s):
    x = s.randn(100, requires_grad=True)

    def hook(grad):
        s.device_module._sleep(CYCLES)
        return grad * 3

    with after(s, s.device_module.Stream()):
        y = make_identity(s.Function).apply(x)
    y.register_hook(hook)
    x.register_hook(hook)
    y.grad_fn.register_hook(lambda ins, outs: (hook(ins[0]),))
    y.grad_fn.register_prehook(lambda outs: (hook(outs[0]),))
    y.sum().backward()
    s.record("input", x)


@scenario
def slow_unpacking_of_what_was_saved(s):
    x = s.randn(100, requires_grad=True)

    def unpack(tensor):
        s.device_module._sleep(CYCLES)
        return tensor * 1

    with torch.autograd.graph.saved_tensors_hooks(lambda t: t * 1, unpack), after(s, s.device_module.Stream()):
        y = make_square(s.Function).apply(x)
    y.sum().backward()
    s.record("input", x)


@scenario
def work_on_a_stream_of_its_own_inside_backward(s):
    class Moves(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            with after(s, s.device_module.Stream()):
                s.device_module._sleep(CYCLES)
                return x * x

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            with after(s, s.device_module.Stream()):
                s.device_module._sleep(CYCLES)
                return 2 * x * grad

    x = s.randn(100, requires_grad=True)
    Moves.apply(Moves.apply(x)).sum().backward()
    s.record("input", x)


@scenario
def memory_of_a_tensor_that_a_side_stream_still_reads(s):
    x = s.randn(1000, requires_grad=True)
    side = s.device_module.Stream()
    y = make_identity(s.Function).apply(x)
    side.wait_stream(s.device_module.current_stream())
    with s.device_module.stream(side):
        s.device_module._sleep(CYCLES)
        z = make_square(s.Function).apply(y)
    y.record_stream(side)
    del y
    # If its memory were reused too soon, z would be made of these.
    filled = [torch.full((1000,), 7.0, device=s.device) for _ in range(8)]
    s.device_module.current_stream().wait_stream(side)
    z.sum().backward()
    s.record("output", z, x, len(filled))
