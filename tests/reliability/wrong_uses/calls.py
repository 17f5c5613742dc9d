# SPDX-License-Identifier: BSD-3-Clause
"""apply() with arguments that don't fit, and forward, backward and jvp that return what they should not."""

import torch
from torch.autograd import forward_ad

from . import ODD_VALUES, Raising, case, leaf, make_function, run


def raw_apply(api):
    return api.Function.__dict__.get("apply", torch.autograd.Function.__dict__["apply"]).__func__


for label, make_value in ODD_VALUES.items():

    @case(f"apply of {label} for a class")
    def _(api, make_value=make_value):
        return raw_apply(api)(make_value(), leaf())

    @case(f"apply({label})")
    def _(api, make_value=make_value):
        return make_function(api).apply(make_value())

    @case(f"forward returns {label}")
    def _(api, make_value=make_value):
        class Odd(api.Function):
            @staticmethod
            def forward(ctx, x):
                return make_value()

            @staticmethod
            def backward(ctx, *grads):
                return grads[0]

        return run(Odd, leaf())

    @case(f"forward returns {label}, setup_context being apart")
    def _(api, make_value=make_value):
        class Odd(api.Function):
            @staticmethod
            def forward(x):
                return make_value()

            @staticmethod
            def setup_context(ctx, inputs, output):
                ctx.save_for_backward(output)

            @staticmethod
            def backward(ctx, *grads):
                return grads[0]

        return run(Odd, leaf())

    @case(f"setup_context returns {label}")
    def _(api, make_value=make_value):
        class Odd(api.Function):
            @staticmethod
            def forward(x):
                return x * 2

            @staticmethod
            def setup_context(ctx, inputs, output):
                return make_value()

            @staticmethod
            def backward(ctx, grad):
                return grad

        return run(Odd, leaf())

    @case(f"backward returns {label}")
    def _(api, make_value=make_value):
        class Odd(api.Function):
            @staticmethod
            def forward(ctx, x, y):
                return x * 2

            @staticmethod
            def backward(ctx, grad):
                return make_value()

        return run(Odd, leaf(), 3)

    @case(f"jvp returns {label}")
    def _(api, make_value=make_value):
        class Odd(api.Function):
            @staticmethod
            def forward(ctx, x):
                return x * 2

            @staticmethod
            def jvp(ctx, tangent):
                return make_value()

        with forward_ad.dual_level():
            return forward_ad.unpack_dual(Odd.apply(forward_ad.make_dual(leaf(), torch.ones(2))))

    @case(f"vjp returns {label}")
    def _(api, make_value=make_value):
        class Odd(api.Function):
            @staticmethod
            def forward(ctx, x):
                return x * 2

            @staticmethod
            def vjp(ctx, grad):
                return make_value()

        return run(Odd, leaf())


CALLS = {
    "nothing": ((), {}),
    "too few": ((1,), {}),
    "too many": ((1, 2, 3, 4, 5, 6), {}),
    "an unknown keyword": ((1, 2), {"unknown": 3}),
    "a keyword twice": ((1, 2), {"x": 3}),
    "a gap": ((), {"z": 3}),
    "only keywords": ((), {"x": 1, "y": 2, "z": 3}),
    "keyword-only": ((1, 2), {"only": 3}),
    "self": ((), {"self": 1}),
    "cls": ((), {"cls": 1}),
    "ctx": ((1, 2), {"ctx": 1}),
}

FORWARDS = {
    "with ctx": lambda ctx, x, y, z=3: torch.ones(2),
    "with ctx, any number": lambda ctx, *args: torch.ones(2),
    "with ctx and keywords": lambda ctx, x, y, *, only=3: torch.ones(2),
    "of no arguments": lambda: torch.ones(2),
    "apart": lambda x, y, z=3: torch.ones(2),
    "apart with keywords": lambda x, y, *, only=3: torch.ones(2),
    "apart, any": lambda *args, **kwargs: torch.ones(2),
    "a type": int,
    "a method of a type": torch.Tensor.add,
    "a builtin": len,
    "no callable": 3,
    "None": None,
    "an object that raises": Raising(),
}


def call_case(call, forward):
    @case(f"forward {forward} called with {call}")
    def _(api):
        members = {"forward": staticmethod(FORWARDS[forward]), "backward": staticmethod(lambda ctx, grad: grad)}
        if forward.startswith("apart"):
            members["setup_context"] = staticmethod(lambda ctx, inputs, output: None)
        args, kwargs = CALLS[call]
        return type("Odd", (api.Function,), members).apply(*args, **kwargs)


for call in CALLS:
    for forward in FORWARDS:
        call_case(call, forward)


@case("keywords that are no strings")
def _(api):
    return make_function(api).apply(**{3: 4})


@case("an instance of a Function calls apply")
def _(api):
    return make_function(api)().apply(leaf())


@case("an instance of a Function is called")
def _(api):
    return make_function(api)()(leaf())


@case("apply of the base class")
def _(api):
    return api.Function.apply(leaf())


@case("backward twice")
def _(api):
    x = leaf()
    y = make_function(api, in_backward=lambda ctx, grad: ctx.saved_tensors).apply(x)
    y.sum().backward()
    y.sum().backward()


@case("saved_tensors once freed")
def _(api):
    x = leaf()
    y = make_function(api).apply(x)
    y.sum().backward()
    return y.grad_fn.saved_tensors


@case("saved input changed in place")
def _(api):
    x = leaf()
    z = x * 1
    y = make_function(api, in_backward=lambda ctx, grad: ctx.saved_tensors).apply(z)
    z.add_(1)
    y.sum().backward()


@case("grad_fn called by hand")
def _(api):
    return make_function(api).apply(leaf()).grad_fn(torch.ones(2))


for label, make_value in ODD_VALUES.items():

    @case(f"grad_fn called with {label}")
    def _(api, make_value=make_value):
        return make_function(api).apply(leaf()).grad_fn(make_value())

    @case(f"apply of grad_fn called with {label}")
    def _(api, make_value=make_value):
        return make_function(api).apply(leaf()).grad_fn.apply(make_value())
