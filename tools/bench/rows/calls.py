# SPDX-License-Identifier: BSD-3-Clause
"""Calls: what ``apply`` costs beyond the ``forward`` that it calls."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch
from torch.autograd import forward_ad

import torch_ext

from .probe import SIZE, Probe, Row, against_stock

COUNTS = (0, 1, 2, 4, 8, 16, 64)  # tensors that a call takes


class NoContext:
    """Stands in for ctx in direct calls of forward."""

    def save_for_backward(self, *tensors):
        pass

    def mark_dirty(self, *tensors):
        pass

    def mark_non_differentiable(self, *tensors):
        pass


def identity_function(base):
    class Identity(base):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, grad):
            return grad

    return Identity


def identity(base):
    function, x = identity_function(base), torch.ones(SIZE, requires_grad=True)
    return Probe(lambda: function.apply(x), lambda: function.forward(None, x))


def saved(base):
    class Multiply(base):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return x * y

        @staticmethod
        def backward(ctx, grad):
            x, y = ctx.saved_tensors
            return grad * y, grad * x

    ctx = NoContext()
    x, y = (torch.ones(SIZE, requires_grad=True) for _ in range(2))
    return Probe(lambda: Multiply.apply(x, y), lambda: Multiply.forward(ctx, x, y))


INPUTS = 13  # of the calls with many


def cat():
    """A node of torch's own with many inputs, and one output."""
    inputs = [torch.ones(SIZE, requires_grad=True) for _ in range(INPUTS)]
    return Probe(lambda: torch.cat(inputs), lambda: torch.cat(inputs))


def many(base):
    class FirstAndLast(base):
        @staticmethod
        def forward(ctx, a, b, c, d, e, f, g, h, i, j, k, l, m):  # noqa: E741
            return a, m

        @staticmethod
        def backward(ctx, first, last):
            return (first, *[None] * (INPUTS - 2), last)

    inputs = [torch.ones(SIZE, requires_grad=True) for _ in range(INPUTS)]
    return Probe(lambda: FirstAndLast.apply(*inputs), lambda: FirstAndLast.forward(None, *inputs))


def scale_with_setup(base):
    class Scale(base):
        @staticmethod
        def forward(x, factor=2.0):
            return x * factor

        @staticmethod
        def setup_context(ctx, inputs, output):
            _, ctx.factor = inputs

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.factor, None

    return Scale


def setup_context(base):
    function, x = scale_with_setup(base), torch.ones(SIZE, requires_grad=True)
    return Probe(lambda: function.apply(x), lambda: function.forward(x))


def keywords(base):
    function, x = scale_with_setup(base), torch.ones(SIZE, requires_grad=True)
    return Probe(lambda: function.apply(x, factor=2.0), lambda: function.forward(x, factor=2.0))


def scale_function(base):
    class Scale(base):
        @staticmethod
        def forward(ctx, x, factor):
            ctx.factor = factor
            return x * factor

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.factor, None

    return Scale


def keywords_of_forward(base):
    function, ctx, x = scale_function(base), NoContext(), torch.ones(SIZE, requires_grad=True)
    return Probe(lambda: function.apply(x, factor=2.0), lambda: function.forward(ctx, x, factor=2.0))


def stock_takes_keywords():
    """Whether this torch lets ``apply`` have keyword arguments: from 2.13 on."""
    try:
        scale_function(torch.autograd.Function).apply(torch.ones(1), factor=2.0)
    except TypeError:
        return False
    return True


def inputs(base, count, requires_grad=True, context=nullcontext):
    """A Function of ``count`` tensors; its result has nothing to do with them, so that they alone make a difference."""

    class Constant(base):
        @staticmethod
        def forward(ctx, *tensors):
            return result.clone()

        @staticmethod
        def backward(ctx, grad):
            return (grad,) * count

    result = torch.ones(SIZE)
    tensors = [torch.ones(SIZE, requires_grad=requires_grad) for _ in range(count)]
    return Probe(lambda: Constant.apply(*tensors), lambda: Constant.forward(None, *tensors), context=context)


def mark_dirty(base):
    class Increment(base):
        @staticmethod
        def forward(ctx, x, buffer):
            ctx.mark_dirty(buffer)
            return buffer.add_(1)

        @staticmethod
        def backward(ctx, grad):
            return grad, grad

    ctx, x, buffer = NoContext(), torch.ones(SIZE, requires_grad=True), torch.ones(SIZE)
    # A view that is new each time has no history, and costs the same with grad mode off.
    return Probe(lambda: Increment.apply(x, buffer.detach()), lambda: Increment.forward(ctx, x, buffer.detach()))


def non_differentiable(base):
    class WithCount(base):
        @staticmethod
        def forward(ctx, x):
            count = constant.clone()
            ctx.mark_non_differentiable(count)
            return x, count

        @staticmethod
        def backward(ctx, grad, _):
            return grad

    ctx, x, constant = NoContext(), torch.ones(SIZE, requires_grad=True), torch.ones(SIZE)
    return Probe(lambda: WithCount.apply(x), lambda: WithCount.forward(ctx, x))


def jvp(base):
    class Double(base):
        @staticmethod
        def forward(ctx, weight, x):
            return x * 2

        @staticmethod
        def jvp(ctx, _, tangent):
            return tangent * 2

        @staticmethod
        def backward(ctx, grad):
            return None, grad * 2

    # x itself requires no grad: its dual tensor would have a node of torch's.
    weight, x, tangent = torch.ones(SIZE, requires_grad=True), torch.ones(SIZE), torch.ones(SIZE)

    def call():
        return Double.apply(weight, forward_ad.make_dual(x, tangent))

    def floor():
        forward_ad.make_dual(x, tangent)
        Double.jvp(None, None, tangent)
        return Double.forward(None, weight, x)

    return Probe(call, floor, context=forward_ad.dual_level)


ROWS = (
    against_stock("identity", "overhead: x, the input returned as is", identity),
    against_stock("saved", "overhead: x * y, two saved tensors", saved),
    against_stock("many", "overhead: 13 inputs, 2 outputs", many),
    Row(
        "cat",
        "the same, the reference being torch's own C++ node of torch.cat",
        cat,
        partial(many, torch_ext.Function),
    ),
    against_stock("setup_context", "overhead: setup_context, a default argument", setup_context),
    *[
        against_stock("keywords", "overhead: setup_context, a keyword argument", keywords),
        against_stock("forward_keywords", "overhead: a keyword argument of forward", keywords_of_forward),
    ]
    * stock_takes_keywords(),
    *[
        against_stock(f"inputs_{count}", f"overhead: {count} inputs, a new output", partial(inputs, count=count))
        for count in COUNTS
    ],
    against_stock(
        "no_input_grad",
        "overhead: as inputs_1, which requires no grad",
        partial(inputs, count=1, requires_grad=False),
    ),
    against_stock("no_grad", "overhead: as inputs_1, under no_grad", partial(inputs, count=1, context=torch.no_grad)),
    against_stock(
        "inference_mode",
        "overhead: as inputs_1, under inference_mode",
        partial(inputs, count=1, context=torch.inference_mode),
    ),
    against_stock("mark_dirty", "overhead: one of 2 inputs changed in place", mark_dirty),
    against_stock("non_diff", "overhead: as identity, and an output that isn't differentiable", non_differentiable),
    against_stock("jvp", "overhead: 2 * x with a tangent (forward AD)", jvp),
)
