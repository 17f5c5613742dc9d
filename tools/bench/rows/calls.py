# SPDX-License-Identifier: BSD-3-Clause
"""Calls: what ``apply`` costs beyond the ``forward`` that it calls."""

from __future__ import annotations

import torch

from .probe import SIZE, Probe, against_stock


class NoContext:
    """Stands in for ctx in direct calls of forward."""

    def save_for_backward(self, *tensors):
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


def many(base):
    class FirstAndLast(base):
        @staticmethod
        def forward(ctx, a, b, c, d, e, f, g, h, i, j, k, l, m):  # noqa: E741
            return a, m

        @staticmethod
        def backward(ctx, first, last):
            return (first, *[None] * 11, last)

    inputs = [torch.ones(SIZE, requires_grad=True) for _ in range(13)]
    return Probe(lambda: FirstAndLast.apply(*inputs), lambda: FirstAndLast.forward(None, *inputs))


def setup_context(base):
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

    x = torch.ones(SIZE, requires_grad=True)
    return Probe(lambda: Scale.apply(x), lambda: Scale.forward(x))


ROWS = (
    against_stock("identity", "overhead: x, the input returned as is", identity),
    against_stock("saved", "overhead: x * y, two saved tensors", saved),
    against_stock("many", "overhead: 13 inputs, 2 outputs", many),
    against_stock("setup_context", "overhead: setup_context, a default argument", setup_context),
)
