# SPDX-License-Identifier: BSD-3-Clause
"""Small Functions that many scenarios need, created over the base class under test."""


def make_square(base):
    """x * x with ``forward(ctx, x)``; differentiable twice."""

    class Square(base):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return 2 * x * grad

        @staticmethod
        def jvp(ctx, tangent):
            return tangent * 3  # wrong on purpose: shows that this rule has run

    return Square


def make_product(base):
    """x * y with ``setup_context`` and every derivative rule; x and y must have the same shape."""

    class Product(base):
        generate_vmap_rule = True

        @staticmethod
        def forward(x, y):
            return x * y

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx, grad):
            x, y = ctx.saved_tensors
            return grad * y.conj(), grad * x.conj()

        @staticmethod
        def jvp(ctx, x_tangent, y_tangent):
            x, y = ctx.saved_tensors
            return x_tangent * y + x * y_tangent

    return Product


def make_identity(base):
    """A copy of x; it saves nothing."""

    class Identity(base):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad

    return Identity


def make_doubler(base):
    """Doubles x in place."""

    class Doubler(base):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x.mul_(2)

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    return Doubler
