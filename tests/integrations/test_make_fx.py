# SPDX-License-Identifier: BSD-3-Clause
"""Custom Functions under make_fx: the same graphs, of forward, of backward and under transforms."""

import torch
from harness import scenario
from torch.func import functionalize, grad, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

MODES = ("real", "fake", "symbolic")


def cubed(Function):
    class Cubed(Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x**3, x.detach() * 1

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)
            ctx.mark_non_differentiable(output[1])

        @staticmethod
        def backward(ctx, grad, _):
            (x,) = ctx.saved_tensors
            return grad * 3 * x**2

        @staticmethod
        def jvp(ctx, tangent):
            (x,) = ctx.saved_tensors
            return tangent * 3 * x**2, None

    return Cubed


def traced(s, label, function, *inputs, **options):
    """Record the graph that make_fx returns, and what it computes; or why it returns none."""
    try:
        graph = make_fx(function, **options)(*inputs)
    except Exception as error:
        s.record(label, error)
        return
    s.lines.extend(f"{label}: {line}" for line in graph.code.splitlines())
    s.record(f"{label}: values", graph(*inputs))


@scenario
def forward_alone(s):
    Cubed = cubed(s.Function)
    for mode in MODES:
        traced(s, mode, lambda x: Cubed.apply(x.cos())[0].sin(), s.randn(3), tracing_mode=mode)
        traced(s, f"{mode}, a leaf", lambda x: Cubed.apply(x.cos()), s.randn(3, requires_grad=True), tracing_mode=mode)


@scenario
def with_backward(s):
    Cubed = cubed(s.Function)

    def gradient(x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(Cubed.apply(x)[0].sum(), x, create_graph=True)[0]

    def twice(x):
        x = x.detach().requires_grad_()
        (first,) = torch.autograd.grad(Cubed.apply(x)[0].sum(), x, create_graph=True)
        return torch.autograd.grad(first.sum(), x)[0]

    for mode in MODES:
        traced(s, mode, gradient, s.randn(3), tracing_mode=mode)
        traced(s, f"{mode}, twice", twice, s.randn(3), tracing_mode=mode)


@scenario
def before_dispatch(s):
    Cubed = cubed(s.Function)
    for functions in (lambda x: Cubed.apply(x)[0], lambda x: Cubed.apply(x.exp())):
        traced(s, "pre_dispatch", functions, s.randn(3, requires_grad=True), pre_dispatch=True)


@scenario
def under_transforms(s):
    Cubed = cubed(s.Function)

    def total(x):
        return Cubed.apply(x)[0].sum()

    transforms = {
        "grad": grad(total),
        "grad of grad": grad(lambda x: grad(total)(x).sum()),
        "vmap": vmap(lambda x: Cubed.apply(x)[0]),
        "vmap of grad": vmap(grad(total)),
        "vjp": lambda x: vjp(lambda x: Cubed.apply(x)[0], x)[1](x),
        "jvp": lambda x: jvp(lambda x: Cubed.apply(x)[0], (x,), (x,)),
        "functionalize": functionalize(lambda x: Cubed.apply(x)[0].add_(1)),
    }
    for name, function in transforms.items():
        for mode in ("real", "fake"):
            traced(s, f"{name}, {mode}", function, s.randn(2, 3), tracing_mode=mode)


@scenario
def with_state_on_ctx(s):
    class Noted(s.Function):
        @staticmethod
        def forward(ctx, x, rows):
            ctx.rows, ctx.shape = rows, x.shape
            return x.reshape(rows, -1) * rows

        @staticmethod
        def backward(ctx, grad):
            s.record("shapes", str(type(ctx.rows)), len(ctx.shape))
            return grad.reshape(ctx.shape) * ctx.rows, None

    def gradient(x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(Noted.apply(x, x.shape[0] // 2).sum(), x)[0]

    for mode in MODES:
        traced(s, mode, gradient, s.randn(6), tracing_mode=mode)


@scenario
def what_cannot_be_traced(s):
    class Reading(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * x.sum().item()

        @staticmethod
        def backward(ctx, grad):
            return grad

    for mode in MODES:
        traced(s, mode, Reading.apply, s.randn(3), tracing_mode=mode)
