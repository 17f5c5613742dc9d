# SPDX-License-Identifier: BSD-3-Clause
"""torch.autograd.gradcheck and gradgradcheck over Functions, right and wrong."""

import re

import torch
from harness import scenario
from harness.small_functions import make_doubler, make_identity, make_product
from torch.autograd import gradcheck, gradgradcheck


def check(s, label, checker, function, *inputs, **options):
    """Record the verdict, with its message about a wrong gradient."""
    try:
        s.record(label, checker(function, inputs, **options))
    except Exception as error:
        s.record(f"{label} raised", type(error), re.sub(r"0x[0-9a-f]+", "0x...", str(error)))


def doubles(s, *shape):
    return s.randn(*shape, dtype=torch.float64, requires_grad=True)


def make_exp(s):
    class Exp(s.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x.exp()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(output)
            ctx.save_for_forward(output)

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved_tensors[0]

        @staticmethod
        def jvp(ctx, tangent):
            return tangent * ctx.saved_tensors[0]

    return Exp.apply


def compose(inner, outer):
    return lambda x: outer(inner(x), x)


FUNCTIONS = {
    "identity": lambda s: (make_identity(s.Function).apply, doubles(s, 3)),
    "exp": lambda s: (make_exp(s), doubles(s, 2, 2)),
    "product": lambda s: (make_product(s.Function).apply, doubles(s, 3), doubles(s, 3)),
    "product of one": lambda s: (compose(lambda x: x, make_product(s.Function).apply), doubles(s, 3)),
    "complex": lambda s: (
        make_product(s.Function).apply,
        s.randn(2, dtype=torch.complex128, requires_grad=True),
        s.randn(2, dtype=torch.complex128),
    ),
    "composed": lambda s: (compose(make_exp(s), make_product(s.Function).apply), doubles(s, 3)),
    "zero size": lambda s: (make_exp(s), doubles(s, 0, 2)),
    "zero dimensional": lambda s: (make_exp(s), s.tensor(0.5, dtype=torch.float64, requires_grad=True)),
}


def check_scenario(name, make):
    def body(s):
        function, *inputs = make(s)
        check(s, "gradcheck", gradcheck, function, *inputs)
        check(s, "fast", gradcheck, function, *inputs, fast_mode=True)
        check(s, "gradgradcheck", gradgradcheck, function, *inputs)
        check(s, "fast gradgradcheck", gradgradcheck, function, *inputs, fast_mode=True)

    def body_of_forward_mode(s):
        function, *inputs = make(s)
        forward = {"check_forward_ad": True, "check_backward_ad": False}
        check(s, "forward", gradcheck, function, *inputs, **forward)
        check(s, "batched forward", gradcheck, function, *inputs, **forward, check_batched_forward_grad=True)
        check(s, "batched backward", gradcheck, function, *inputs, check_batched_grad=True)
        check(s, "undefined", gradcheck, function, *inputs, check_undefined_grad=True)
        check(s, "forward over reverse", gradgradcheck, function, *inputs, check_fwd_over_rev=True)

    for test, what in (body, "backward"), (body_of_forward_mode, "forward_and_batched"):
        test.__name__ = test.__qualname__ = f"{name.replace(' ', '_')}_{what}"
        globals()[test.__name__] = scenario(test)


for _name, _make in FUNCTIONS.items():
    check_scenario(_name, _make)


@scenario
def wrong_gradient(s):
    class Wrong(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 3

    check(s, "gradcheck", gradcheck, Wrong.apply, doubles(s, 2))
    check(s, "fast", gradcheck, Wrong.apply, doubles(s, 2), fast_mode=True)
    s.record("silent", gradcheck(Wrong.apply, (doubles(s, 2),), raise_exception=False))


@scenario
def wrong_double_gradient(s):
    class Detaches(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return 3 * x.detach() ** 2 * grad

    check(s, "gradcheck", gradcheck, Detaches.apply, doubles(s, 2))
    check(s, "gradgradcheck", gradgradcheck, Detaches.apply, doubles(s, 2))


@scenario
def wrong_forward_gradient(s):
    class Wrong(make_product(s.Function)):
        @staticmethod
        def jvp(ctx, x_tangent, y_tangent):
            return x_tangent + y_tangent

    inputs = doubles(s, 2), doubles(s, 2)
    check(s, "forward", gradcheck, Wrong.apply, *inputs, check_forward_ad=True)


@scenario
def once_differentiable(s):
    class Once(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        @s.once_differentiable
        def backward(ctx, grad):
            return 3 * ctx.saved_tensors[0] ** 2 * grad

    check(s, "gradcheck", gradcheck, Once.apply, doubles(s, 2))
    check(s, "gradgradcheck", gradgradcheck, Once.apply, doubles(s, 2))


@scenario
def undefined_gradients_not_supported(s):
    class Strict(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.set_materialize_grads(False)
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, a, b):
            return a * 2 + b * 3

    check(s, "gradcheck", gradcheck, Strict.apply, doubles(s, 2))


@scenario
def backward_not_deterministic(s):
    class Noisy(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2 + torch.rand_like(grad)

    check(s, "gradcheck", gradcheck, Noisy.apply, doubles(s, 2))


@scenario
def in_place_and_views(s):
    Doubles = make_doubler(s.Function)
    check(s, "in place", gradcheck, lambda x: Doubles.apply(x.clone()), doubles(s, 2))
    check(s, "in place on a view", gradcheck, lambda x: Doubles.apply(x.clone()[0]), doubles(s, 2, 2))
    check(s, "again", gradgradcheck, lambda x: Doubles.apply(x.clone()), doubles(s, 2))


@scenario
def sparse_gradients(s):
    class Dense(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.to_dense()

        @staticmethod
        def backward(ctx, grad):
            return grad.sparse_mask(ctx.saved_tensors[0])

    x = torch.eye(3, dtype=torch.float64, device=s.device).to_sparse().requires_grad_()
    check(s, "masked", gradcheck, Dense.apply, x, masked=True, check_undefined_grad=False)
