# SPDX-License-Identifier: BSD-3-Clause
"""The CPU and another device in one graph: its nodes run on two threads."""

import threading

import torch
from harness import scenario
from harness.engine import settle
from harness.registering import empty_the_queue, hooks_of
from harness.small_functions import make_product, make_square

CPU = torch.device("cpu")


def make_move(s):
    """x on another device."""

    class Move(s.Function):
        @staticmethod
        def forward(ctx, x, device):
            ctx.device = x.device
            return x.to(device)

        @staticmethod
        def backward(ctx, grad):
            s.record("moved back", grad, threading.current_thread() is threading.main_thread())
            return grad.to(ctx.device), None

    return Move.apply


def make_pair(s, in_backward):
    """(a * 2 on the CPU, b * 3 on the device); ``in_backward(first, second)`` returns the gradients."""

    class Pair(s.Function):
        @staticmethod
        def forward(ctx, a, b):
            ctx.save_for_backward(a, b)
            return a * 2, b * 3

        @staticmethod
        def backward(ctx, first, second):
            s.record("saved", ctx.saved_tensors)
            s.record("given", first, second)
            return in_backward(first, second)

    return Pair.apply


def leaves(s):
    return s.randn(3).cpu().requires_grad_(), s.randn(3, requires_grad=True)


@scenario
def there_and_back(s):
    move, square = make_move(s), make_square(s.Function).apply
    for start, other in (CPU, s.device), (s.device, CPU):
        x = s.randn(3).to(start).requires_grad_()
        y = square(move(square(move(square(x), other)), start))
        s.record("output", y)
        y.sum().backward()
        s.record("input", x)


@scenario
def double_backward_there_and_back(s):
    move, square = make_move(s), make_square(s.Function).apply
    x = s.randn(3).cpu().requires_grad_()
    (grad,) = torch.autograd.grad(move(square(move(x, s.device)), CPU).sum(), x, create_graph=True)
    s.record("gradient", grad.detach())
    grad.sum().backward()
    s.record("input", x)


@scenario
def inputs_and_outputs_on_two_devices(s):
    pair = make_pair(s, lambda first, second: (first * 2, second * 3))
    a, b = leaves(s)
    first, second = pair(a, b)
    s.record("outputs", first, second)
    (first.sum() + second.sum().cpu()).backward()
    s.record("inputs", a, b)


@scenario
def gradient_of_one_device_is_missing(s):
    pair = make_pair(s, lambda first, second: (first * 2, second * 3))
    for index in (0, 1):
        a, b = leaves(s)
        pair(a, b)[index].sum().backward()
        s.record("inputs", a, b)


@scenario
def gradients_on_the_wrong_device(s):
    wrong = (
        lambda first, second: (second, first),
        lambda first, second: (first, second.cpu()),
        lambda first, second: (first.to(s.device), second),
        lambda first, second: (second.sum(), first.sum()),
    )
    for in_backward in wrong:
        a, b = leaves(s)
        first, second = make_pair(s, in_backward)(a, b)
        s.outcome("backward", lambda: (first.sum() + second.sum().cpu()).backward())
        s.record("inputs", a.grad, b.grad)


@scenario
def tangents_of_two_devices(s):
    fwAD = torch.autograd.forward_ad

    class Scale(s.Function):
        @staticmethod
        def forward(ctx, a, b):
            return a * 2, b * 3

        @staticmethod
        def jvp(ctx, a, b):
            return wrong((a * 2, b * 3))

    for wrong in (tuple, reversed):
        with fwAD.dual_level():
            a = fwAD.make_dual(s.randn(3).cpu(), s.randn(3).cpu())
            b = fwAD.make_dual(s.randn(3), s.randn(3))
            s.outcome("outputs", lambda: Scale.apply(a, b))


@scenario
def scalar_of_the_cpu_among_tensors_of_the_device(s):
    product = make_product(s.Function).apply
    scale = torch.tensor(2.0, requires_grad=True)
    x = s.tensor(3.0, requires_grad=True)
    s.outcome("backward", lambda: product(scale, x).backward())
    s.record("inputs", scale, x)


@scenario
def hooks_on_both_threads(s):
    hooks, move, square = hooks_of(s), make_move(s), make_square(s.Function).apply
    a = s.randn(3).cpu().requires_grad_()
    b = move(square(a), s.device)
    c = square(b)
    for label, tensor in (("leaf", a), ("moved", b), ("last", c)):

        def note(*_, label=label):
            s.record(label, threading.current_thread() is threading.main_thread())

        hooks.register_tensor_hook(tensor, note)
        if tensor.grad_fn is not None:
            hooks.register_node_prehook(tensor.grad_fn, note)
            hooks.register_node_posthook(tensor.grad_fn, note)
    hooks.register_post_accumulate_grad_hook(a, lambda a: s.record("accumulated", a.grad))
    c.sum().backward()


@scenario
def error_on_one_thread_while_the_other_works(s):
    class Fails(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise KeyError(str(grad.device))

    square, move = make_square(s.Function).apply, make_move(s)
    for device, other in (CPU, s.device), (s.device, CPU):
        x = s.randn(3).to(device).requires_grad_()
        y = s.randn(3).to(other).requires_grad_()
        s.raises("backward", lambda: torch.autograd.backward([Fails.apply(x).sum(), square(y).sum()]))
        settle(s.device)
        s.record("the one that failed", x.grad)
        s.raises("one after the other", lambda: move(square(Fails.apply(x)), other).sum().backward())
        empty_the_queue()


@scenario
def reentrant_backward_of_the_other_device(s):
    square = make_square(s.Function).apply

    class Reenters(s.Function):
        @staticmethod
        def forward(ctx, x, other):
            ctx.other = other
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            with torch.enable_grad():
                leaf = torch.ones(3, device=ctx.other, requires_grad=True)
                square(leaf).sum().backward()
            return grad * leaf.grad.to(grad.device), None

    for device, other in (CPU, s.device), (s.device, CPU):
        x = s.randn(3).to(device).requires_grad_()
        Reenters.apply(x, other).sum().backward()
        s.record("input", x)


@scenario
def pinned_memory_and_copies_that_do_not_block(s):
    class Upload(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.to(s.device, non_blocking=True)

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            s.record("saved", x.is_pinned())
            host = torch.empty(grad.shape, pin_memory=True)
            host.copy_(grad, non_blocking=True)
            s.device_module.current_stream().synchronize()
            return host

    x = s.randn(1000).cpu().pin_memory().requires_grad_()
    make_square(s.Function).apply(Upload.apply(x)).sum().backward()
    s.record("input", x)
