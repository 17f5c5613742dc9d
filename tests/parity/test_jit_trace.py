"""torch.jit.trace over a Function: the graph, and what the traced function gives."""

import io
import re

import torch
from harness import scenario
from small_functions import make_identity, make_product, make_square


def trace(s, label, function, *inputs):
    """Record the graph of a traced function, and its outputs and gradients on other inputs."""
    try:
        traced = torch.jit.trace(function, inputs, check_trace=False)
    except Exception as error:
        s.record(f"{label}: trace raised", error)
        return
    s.record(f"{label}: graph", re.sub(r"___torch_mangle_\d+\.", "", str(traced.graph)))
    others = [x.detach().neg().requires_grad_(x.requires_grad) for x in inputs]
    outputs = s.outcome(label, traced, *others)
    if isinstance(outputs, torch.Tensor) and outputs.requires_grad:
        outputs.sum().backward()
        s.record(f"{label}: inputs", others)


@scenario
def old_style(s):
    trace(s, "square", make_square(s.Function).apply, s.randn(3, requires_grad=True))


@scenario
def setup_context_style(s):
    trace(s, "product", make_product(s.Function).apply, s.randn(3, requires_grad=True), s.randn(3))


@scenario
def without_gradient(s):
    trace(s, "square", make_square(s.Function).apply, s.randn(3))


@scenario
def between_other_operators(s):
    square = make_square(s.Function)
    trace(s, "mixed", lambda x: square.apply(x.sin()).cos() + square.apply(x), s.randn(3, requires_grad=True))


@scenario
def several_outputs(s):
    class Two(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2, x.exp()

        @staticmethod
        def backward(ctx, a, b):
            return a * 2 + b

    trace(s, "two", Two.apply, s.randn(3, requires_grad=True))
    trace(s, "second only", lambda x: Two.apply(x)[1], s.randn(3, requires_grad=True))


@scenario
def arguments_that_are_no_tensors(s):
    class Scale(s.Function):
        @staticmethod
        def forward(ctx, x, factor, name, pair):
            ctx.factor = factor
            return x * factor

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.factor, None, None, None

    trace(s, "scale", lambda x: Scale.apply(x, 3, "name", (1, None)), s.randn(3, requires_grad=True))


@scenario
def tensors_inside_arguments(s):
    class Sum(s.Function):
        @staticmethod
        def forward(ctx, pair):
            return pair[0] + pair[1]

        @staticmethod
        def backward(ctx, grad):
            return grad

    trace(s, "sum", lambda x: Sum.apply((x, x)), s.randn(3, requires_grad=True))


@scenario
def in_place_and_view(s):
    class Doubles(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x.mul_(2)

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    class Row(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x[0]

        @staticmethod
        def backward(ctx, grad):
            return torch.stack([grad, grad * 0])

    trace(s, "in place", lambda x: Doubles.apply(x * 1), s.randn(3, requires_grad=True))
    trace(s, "view", Row.apply, s.randn(2, 2, requires_grad=True))


@scenario
def function_inside_a_function(s):
    square = make_square(s.Function)

    class Outer(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return square.apply(x) + 1

        @staticmethod
        def backward(ctx, grad):
            return 2 * ctx.saved_tensors[0] * grad

    trace(s, "outer", Outer.apply, s.randn(3, requires_grad=True))


@scenario
def module_with_a_function(s):
    identity = make_identity(s.Function)

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(s.randn(3))

        def forward(self, x):
            return identity.apply(self.weight * x)

    trace(s, "module", Layer(), s.randn(3))


@scenario
def function_that_raises(s):
    class Fails(s.Function):
        @staticmethod
        def forward(ctx, x):
            raise KeyError("forward")

    s.raises("trace", torch.jit.trace, Fails.apply, (s.randn(3, requires_grad=True),))
    s.record("tracing state", torch._C._get_tracing_state())
    s.differentiate("still works", make_square(s.Function).apply, s.randn(3, requires_grad=True))


@scenario
def traced_with_a_check(s):
    s.record("graph", str(torch.jit.trace(make_square(s.Function).apply, (s.randn(3, requires_grad=True),)).graph))


@scenario
def is_tracing_in_forward(s):
    class Looks(s.Function):
        @staticmethod
        def forward(ctx, x):
            s.record("forward", torch.jit.is_tracing(), torch._C._get_tracing_state() is None)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            s.record("backward", torch.jit.is_tracing())
            return grad * 2

    def body(x):
        (grad,) = torch.autograd.grad(Looks.apply(x).sum(), x)
        return grad

    trace(s, "looks", body, s.randn(3, requires_grad=True))


@scenario
def traced_names_follow_the_class(s):
    class Named(make_identity(s.Function)):
        pass

    Named.__name__ = "Renamed"
    trace(s, "renamed", Named.apply, s.randn(3, requires_grad=True))


@scenario
def saving_a_traced_function(s):
    traced = torch.jit.trace(make_square(s.Function).apply, (s.randn(3, requires_grad=True),), check_trace=False)
    try:
        torch.jit.save(traced, io.BytesIO())
    except RuntimeError as error:
        # The lines below are those of the whole call stack, of the test runner too.
        s.record("save", str(error).splitlines()[:2])


@scenario
def call_from_torchscript(s):
    square = make_square(s.Function)

    def body(x):
        return square.apply(x) + 1

    try:
        scripted = torch.jit.script(body)
    except Exception as error:
        s.record("script raised", error)
        return
    s.record("graph", str(scripted.graph))
    s.differentiate("scripted", scripted, s.randn(3, requires_grad=True))
