# SPDX-License-Identifier: BSD-3-Clause
"""torch.utils.checkpoint around a Function, and a Function that is itself a checkpoint."""

import torch
import torch._dynamo  # torch does so on the first use of a dispatch mode: its classes are no leak
from harness import scenario
from harness.small_functions import make_product, make_square
from torch.utils.checkpoint import checkpoint, checkpoint_sequential, set_checkpoint_early_stop


def make_talker(s):
    class Talker(s.Function):
        @staticmethod
        def forward(ctx, x, name):
            s.record(f"forward {name}", torch.is_grad_enabled(), x.requires_grad)
            ctx.name = name
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            s.record(f"backward {ctx.name}", ctx.needs_input_grad)
            return grad * x.cos(), None

    return Talker.apply


def two_steps(s):
    talk = make_talker(s)
    return lambda x: talk(talk(x, "first"), "second")


@scenario
def reentrant(s):
    x = s.randn(3, requires_grad=True)
    y = checkpoint(two_steps(s), x, use_reentrant=True)
    s.record("output", y)
    y.sum().backward()
    s.record("input", x)


@scenario
def not_reentrant(s):
    x = s.randn(3, requires_grad=True)
    y = checkpoint(two_steps(s), x, use_reentrant=False)
    s.record("output", y)
    y.sum().backward()
    s.record("input", x)


@scenario
def nested(s):
    step = two_steps(s)
    for use_reentrant in True, False:
        x = s.randn(3, requires_grad=True)
        y = checkpoint(lambda x: checkpoint(step, step(x), use_reentrant=use_reentrant), x, use_reentrant=use_reentrant)
        y.sum().backward()
        s.record(f"use_reentrant={use_reentrant}", x)


@scenario
def without_early_stop(s):
    x = s.randn(3, requires_grad=True)
    with set_checkpoint_early_stop(False):
        y = checkpoint(two_steps(s), x, use_reentrant=False)
    y.sum().backward()
    s.record("input", x)


@scenario
def with_create_graph(s):
    square = make_square(s.Function)
    x = s.randn(3, requires_grad=True)
    y = checkpoint(lambda x: square.apply(square.apply(x)), x, use_reentrant=False)
    (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    s.record("gradient", grad)
    grad.sum().backward()
    s.record("input", x)


@scenario
def reentrant_refuses_grad(s):
    x = s.randn(3, requires_grad=True)
    y = checkpoint(two_steps(s), x, use_reentrant=True)
    s.raises("torch.autograd.grad", torch.autograd.grad, y.sum(), x)


@scenario
def reentrant_warns_without_gradient(s):
    s.record("output", checkpoint(two_steps(s), s.randn(3), use_reentrant=True))


@scenario
def use_reentrant_not_given(s):
    x = s.randn(3, requires_grad=True)
    s.outcome("call", checkpoint, two_steps(s), x)


@scenario
def several_outputs_and_other_arguments(s):
    product = make_product(s.Function)

    def body(x, scale, options):
        return product.apply(x, x) * scale, options["shift"], x + options["shift"]

    for use_reentrant in True, False:
        x = s.randn(3, requires_grad=True)
        outputs = checkpoint(body, x, 3, {"shift": 2}, use_reentrant=use_reentrant)
        s.record(f"use_reentrant={use_reentrant}", outputs)
        (outputs[0] * outputs[2]).sum().backward()
        s.record("input", x)


@scenario
def random_numbers_are_repeated(s):
    class Noise(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.noise = torch.rand_like(x)
            s.record("noise", ctx.noise)
            return x * ctx.noise

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.noise

    for use_reentrant in True, False:
        x = s.randn(3, requires_grad=True)
        y = checkpoint(lambda x: Noise.apply(x).sin(), x, use_reentrant=use_reentrant)
        y.sum().backward()
        s.record("input", x)


@scenario
def recomputed_differently(s):
    square = make_square(s.Function)
    runs = []

    def changes(x):
        runs.append(len(runs))
        return square.apply(square.apply(x)) if len(runs) == 1 else square.apply(x)

    def reshapes(x):
        runs.append(len(runs))
        return square.apply(x if len(runs) == 1 else torch.cat([x, x])).sum()

    for body in changes, reshapes:
        runs.clear()
        y = checkpoint(body, s.randn(3, requires_grad=True), use_reentrant=False)
        s.raises(body.__name__, lambda y=y: y.sum().backward())


@scenario
def recomputation_raises(s):
    square = make_square(s.Function)
    for use_reentrant in True, False:
        runs = []

        def body(x, runs=runs):
            runs.append(x.shape)
            if len(runs) == 2:
                raise KeyError("recomputation")
            return square.apply(x)

        y = checkpoint(body, s.randn(3, requires_grad=True), use_reentrant=use_reentrant)
        s.raises(f"use_reentrant={use_reentrant}", lambda y=y: y.sum().backward())


@scenario
def function_raises_inside(s):
    class Fails(s.Function):
        @staticmethod
        def forward(ctx, x):
            raise KeyError("forward")

    for use_reentrant in True, False:
        s.raises(
            f"use_reentrant={use_reentrant}",
            lambda use_reentrant=use_reentrant: checkpoint(
                Fails.apply, s.randn(3, requires_grad=True), use_reentrant=use_reentrant
            ),
        )


@scenario
def sequential(s):
    talk = make_talker(s)
    steps = [lambda x, i=i: talk(x, i) for i in range(4)]
    for use_reentrant in True, False:
        x = s.randn(3, requires_grad=True)
        checkpoint_sequential(steps, 2, x, use_reentrant=use_reentrant).sum().backward()
        s.record("input", x)


@scenario
def a_checkpoint_written_as_a_function(s):
    class Checkpoint(s.Function):
        @staticmethod
        def forward(ctx, run, *inputs):
            ctx.run = run
            ctx.save_for_backward(*inputs)
            return run(*inputs)

        @staticmethod
        def backward(ctx, *grads):
            inputs = [x.detach().requires_grad_(x.requires_grad) for x in ctx.saved_tensors]
            with torch.enable_grad():
                outputs = ctx.run(*inputs)
            torch.autograd.backward(outputs, grads)
            return None, *(x.grad for x in inputs)

    product = make_product(s.Function)

    def body(x, y):
        return product.apply(x, y), product.apply(y, y)

    x, y = s.randn(3, requires_grad=True), s.randn(3, requires_grad=True)
    a, b = Checkpoint.apply(body, x, y)
    s.record("outputs", a, b)
    (a + b).sum().backward()
    s.record("inputs", x, y)


@scenario
def with_saved_tensors_hooks_around(s):
    x = s.randn(3, requires_grad=True)
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda t: s.record("pack", t.shape) or t, lambda t: s.record("unpack", t.shape) or t
    )
    with hooks:
        y = checkpoint(two_steps(s), x, use_reentrant=False)
    y.sum().backward()
    s.record("input", x)
