# SPDX-License-Identifier: BSD-3-Clause
"""Grad mode and inference mode, around a call and inside it."""

import torch
from harness import scenario
from harness.small_functions import make_doubler, make_product, make_square


def make_mode_reporter(s):
    """A Function that records grad mode in each step."""

    class Reporter(s.Function):
        @staticmethod
        def forward(x):
            s.record("forward", torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled())
            s.record("inference mode", torch.is_inference_mode_enabled())
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("setup_context", torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled(), ctx.needs_input_grad)
            s.record("output in setup_context", output)

        @staticmethod
        def backward(ctx, grad):
            s.record("backward", torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled())
            return grad * 2

    return Reporter


@scenario
def mode_in_each_step(s):
    x = s.randn(2, requires_grad=True)
    y = make_mode_reporter(s).apply(x)
    y.sum().backward()
    s.record("after", torch.is_grad_enabled(), y, x)


@scenario
def mode_in_each_step_with_create_graph(s):
    x = s.randn(2, requires_grad=True)
    y = make_mode_reporter(s).apply(x)
    (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    s.record("gradient", grad)


@scenario
def mode_in_each_step_under_no_grad(s):
    x = s.randn(2, requires_grad=True)
    with torch.no_grad():
        y = make_mode_reporter(s).apply(x)
        s.record("still off", torch.is_grad_enabled())
    s.record("output", y)


@scenario
def mode_in_each_step_under_inference_mode(s):
    x = s.randn(2, requires_grad=True)
    with torch.inference_mode():
        y = make_mode_reporter(s).apply(x)
        s.record("output", y)
    s.record("output outside", y)


@scenario
def no_grad_saves_nothing(s):
    x = s.randn(2, requires_grad=True)
    kept = []

    class Keeps(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            kept.append(ctx)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad

    with torch.no_grad():
        y = Keeps.apply(x)
    s.record("output", y)
    s.record("ctx", kept[0])
    s.outcome("saved tensors", lambda: kept[0].saved_tensors)
    s.outcome("to_save", lambda: kept[0].to_save)
    s.outcome("needs_input_grad", lambda: kept[0].needs_input_grad)


@scenario
def no_grad_returns_a_view_and_an_input(s):
    class Views(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x, x[0]

        @staticmethod
        def backward(ctx, a, b):
            return a

    with torch.no_grad():
        same, view = Views.apply(x := s.randn(2, 3, requires_grad=True))
    s.record("outputs", x, same, view)
    s.outcome("in place on the view", lambda: view.mul_(2))
    s.outcome("in place on the same", lambda: same.mul_(2))


@scenario
def set_grad_enabled_back_on(s):
    x = s.randn(2, requires_grad=True)
    with torch.no_grad(), torch.enable_grad():
        s.differentiate("square", make_square(s.Function).apply, x)
    with torch.set_grad_enabled(False):
        s.record("off", make_square(s.Function).apply(x))


@scenario
def enable_grad_inside_forward(s):
    class Inner(s.Function):
        @staticmethod
        def forward(ctx, x):
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                y = (leaf**3).sum()
                s.record("graph inside", y)
                (ctx.slope,) = torch.autograd.grad(y, leaf)
            s.record("off again", torch.is_grad_enabled())
            return y.detach()

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.slope

    s.differentiate("inner", Inner.apply, s.randn(3, requires_grad=True))


@scenario
def enable_grad_inside_forward_and_output_has_a_graph(s):
    class Leaks(s.Function):
        @staticmethod
        def forward(ctx, x):
            with torch.enable_grad():
                return (x * 3) ** 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 5

    s.differentiate("output with its own graph", Leaks.apply, s.randn(3, requires_grad=True))


@scenario
def set_grad_enabled_left_changed_by_forward(s):
    class Changes(s.Function):
        @staticmethod
        def forward(ctx, x):
            torch._C._set_grad_enabled(True)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            torch._C._set_grad_enabled(not torch.is_grad_enabled())
            return grad

    x = s.randn(2, requires_grad=True)
    with torch.no_grad():
        Changes.apply(x)
        s.record("under no_grad", torch.is_grad_enabled())
    y = Changes.apply(x)
    s.record("under enable_grad", torch.is_grad_enabled())
    y.sum().backward()
    s.record("after backward", torch.is_grad_enabled())


@scenario
def backward_with_enable_grad_and_no_grad_inside(s):
    class Toggles(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.exp()

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            with torch.enable_grad():
                first = (x * x).sum() * grad
            with torch.no_grad():
                second = x * grad
            s.record("inside", first, second)
            return first + second

    s.differentiate("toggles", Toggles.apply, s.randn(2, requires_grad=True))


@scenario
def inference_tensor_as_input(s):
    with torch.inference_mode():
        inferred = s.randn(2)
    product = make_product(s.Function)
    s.record("of inference tensors", product.apply(inferred, inferred))
    s.outcome("saved with a leaf", product.apply, inferred, s.randn(2, requires_grad=True))


@scenario
def inference_tensor_not_saved(s):
    class Add(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            return x + y

        @staticmethod
        def backward(ctx, grad):
            return grad, grad

    with torch.inference_mode():
        inferred = s.randn(2)
    s.differentiate("sum", Add.apply, s.randn(2, requires_grad=True), inferred)


@scenario
def inference_mode_and_an_in_place_function(s):
    Doubles = make_doubler(s.Function)
    with torch.inference_mode():
        x = s.randn(2)
        y = Doubles.apply(x)
        s.record("inside", x, y)
    s.outcome("outside", Doubles.apply, x)
    normal = s.randn(2)
    with torch.inference_mode():
        s.record("normal tensor inside", Doubles.apply(normal), normal)


@scenario
def inference_mode_and_a_view(s):
    class Row(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x[0]

        @staticmethod
        def backward(ctx, grad):
            return torch.stack([grad, grad])

    x = s.randn(2, 2, requires_grad=True)
    with torch.inference_mode():
        s.record("view of a normal tensor", Row.apply(x))
        s.record("view of an inference tensor", Row.apply(x * 2))


@scenario
def inference_mode_inside_forward(s):
    class Inside(s.Function):
        @staticmethod
        def forward(ctx, x):
            with torch.inference_mode():
                return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    x = s.randn(2, requires_grad=True)
    y = s.outcome("call", Inside.apply, x)
    if y is not None:
        s.outcome("backward", lambda: y.sum().backward())
    s.record("input", x)


@scenario
def inference_mode_in_backward(s):
    class Inside(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            with torch.inference_mode():
                return grad * 2

    x = s.randn(2, requires_grad=True)
    s.outcome("backward", lambda: Inside.apply(x).sum().backward())
    s.record("input", x)


@scenario
def backward_under_no_grad_and_inference_mode(s):
    square = make_square(s.Function)
    x = s.randn(2, requires_grad=True)
    y = square.apply(x)
    with torch.no_grad():
        y.backward(torch.ones_like(y))
    s.record("under no_grad", x)
    y = square.apply(x)
    with torch.inference_mode():
        s.outcome("under inference_mode", y.backward, torch.ones_like(y))
    s.record("after", x)


@scenario
def input_without_grad(s):
    y = make_square(s.Function).apply(s.randn(3))
    s.record("output", y)
    s.raises("backward", lambda: y.sum().backward())
