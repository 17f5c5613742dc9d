# SPDX-License-Identifier: BSD-3-Clause
"""What can be passed to a Function."""

import collections

import numpy
import torch
from harness import scenario


def make_first(s):
    """A Function that records its inputs and doubles the first tensor among them."""

    class First(s.Function):
        @staticmethod
        def forward(ctx, *inputs):
            s.record("inputs", inputs, ctx.needs_input_grad)
            ctx.count = len(inputs)
            first = next((x for x in inputs if isinstance(x, torch.Tensor)), None)
            return None if first is None else first * 2

        @staticmethod
        def backward(ctx, grad):
            return tuple(grad * 2 if needed else None for needed in ctx.needs_input_grad)

    return First


@scenario
def every_kind_of_object(s):
    x = s.randn(2, requires_grad=True)
    things = (1, 1.5, True, None, "text", b"bytes", [1, 2], {"a": 1}, {1}, (1,), object, len, numpy.ones(2), slice(1))
    y = make_first(s).apply(x, *things)
    s.record("output", y)
    y.sum().backward()
    s.record("input", x)


@scenario
def objects_only(s):
    s.record("output", make_first(s).apply(1, "text", None))


@scenario
def no_inputs(s):
    class Nothing(s.Function):
        @staticmethod
        def forward(ctx):
            s.record("needs", ctx.needs_input_grad)
            return torch.ones(2, device=s.device)

    s.record("output", Nothing.apply())


@scenario
def identity_of_the_inputs(s):
    x, thing = s.randn(2, requires_grad=True), object()

    class Same(s.Function):
        @staticmethod
        def forward(ctx, a, b, c):
            s.record("same", a is x, b is thing, c is x, a.requires_grad, a.is_leaf)
            return a * 2

    Same.apply(x, thing, x)


@scenario
def tensors_inside_containers(s):
    x, y = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)

    class Pair(s.Function):
        @staticmethod
        def forward(ctx, pair, options):
            s.record("needs", ctx.needs_input_grad)
            return pair[0] * pair[1]

    s.record("output", Pair.apply((x, y), {"x": x}), Pair.apply([x, y], {}))


@scenario
def named_tuple_input(s):
    Point = collections.namedtuple("Point", "x y")

    class Takes(s.Function):
        @staticmethod
        def forward(ctx, x, point):
            s.record("type", type(point).__name__, point.x is point[0])
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad, None

    s.differentiate("named tuple", Takes.apply, s.randn(2, requires_grad=True), Point(s.randn(1), 2))


@scenario
def same_tensor_twice(s):
    x = s.randn(2, requires_grad=True)
    y = make_first(s).apply(x, x, x)
    s.record("output", y)
    y.sum().backward()
    s.record("input", x)


@scenario
def some_inputs_need_no_gradient(s):
    x, frozen = s.randn(2, requires_grad=True), s.randn(2)
    for inputs in ((x, frozen), (frozen, x), (frozen, frozen), (frozen, 1, x)):
        y = make_first(s).apply(*inputs)
        s.record("output", y)
        if y.requires_grad:
            y.sum().backward()
    s.record("inputs", x, frozen)


@scenario
def requires_grad_changed_after_the_call(s):
    x = s.randn(2, requires_grad=True)
    y = make_first(s).apply(x)
    x.requires_grad_(False)
    y.sum().backward()
    s.record("input", x)


@scenario
def requires_grad_changed_inside_forward(s):
    class Changes(s.Function):
        @staticmethod
        def forward(ctx, x):
            x.requires_grad_(True)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    x = s.randn(2)
    y = Changes.apply(x)
    s.record("both", x, y)


@scenario
def parameter_input(s):
    p = torch.nn.Parameter(s.randn(2))
    y = make_first(s).apply(p)
    s.record("output", y)
    y.sum().backward()
    s.record("parameter", p)


@scenario
def buffer_input(s):
    b = torch.nn.Buffer(s.randn(2))
    s.record("output", make_first(s).apply(b))


@scenario
def integer_input(s):
    i = s.tensor([1, 2, 3])
    s.record("alone", make_first(s).apply(i))

    class Index(s.Function):
        @staticmethod
        def forward(ctx, x, index):
            ctx.save_for_backward(index)
            ctx.size = x.numel()
            return x[index]

        @staticmethod
        def backward(ctx, grad):
            (index,) = ctx.saved_tensors
            return grad.new_zeros(ctx.size).index_add_(0, index, grad), None

    x = s.randn(5, requires_grad=True)
    y = Index.apply(x, i)
    y.sum().backward()
    s.record("with a float", y, x)


@scenario
def integer_output_of_a_float(s):
    class Round(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x.to(torch.int64), x * 2, x > 0

        @staticmethod
        def backward(ctx, a, b, c):
            s.record("gradients", a, b, c)
            return b

    outputs = Round.apply(s.randn(3, requires_grad=True))
    s.record("outputs", outputs)
    outputs[1].sum().backward()


@scenario
def only_integer_outputs(s):
    class Sign(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x > 0

        @staticmethod
        def backward(ctx, grad):
            s.record("gradient", grad)

    y = Sign.apply(s.randn(3, requires_grad=True))
    s.record("output", y)
    s.outcome("backward", lambda: y.sum().backward())


@scenario
def every_dtype(s):
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.int8, torch.uint8, torch.bool):
        x = torch.ones(2, dtype=dtype, device=s.device)
        if dtype.is_floating_point or dtype.is_complex:
            x.requires_grad_()
        s.record(str(dtype), make_first(s).apply(x))


@scenario
def complex_input(s):
    class Square(s.Function):
        @staticmethod
        def forward(ctx, z):
            ctx.save_for_backward(z)
            return z * z

        @staticmethod
        def backward(ctx, grad):
            (z,) = ctx.saved_tensors
            return grad * 2 * z.conj()

    s.differentiate("square", Square.apply, s.randn(2, dtype=torch.complex64, requires_grad=True))
    z = s.randn(2, dtype=torch.complex64, requires_grad=True)
    s.differentiate("conjugate", lambda z: Square.apply(z.conj()), z)


@scenario
def real_part_of_a_complex_input(s):
    class Real(s.Function):
        @staticmethod
        def forward(ctx, z):
            return z.real.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad + 0j

    s.differentiate("real", Real.apply, s.randn(2, dtype=torch.complex64, requires_grad=True))


@scenario
def lazily_conjugated_and_negated(s):
    class Same(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            s.record("saved", ctx.saved_tensors)
            return grad

    z = s.randn(2, dtype=torch.complex64, requires_grad=True)
    Same.apply(z.conj()).abs().sum().backward()
    Same.apply(z.conj().imag).sum().backward()
    s.record("input", z)


@scenario
def zero_dimensional(s):
    s.differentiate("scalar", make_first(s).apply, s.tensor(2.0, requires_grad=True))


@scenario
def zero_size(s):
    for shape in ((0,), (2, 0), (0, 3, 0)):
        x = s.randn(*shape, requires_grad=True)
        y = make_first(s).apply(x)
        y.sum().backward()
        s.record(f"{shape}", y, x)


@scenario
def strided_inputs(s):
    base = s.randn(4, 6, requires_grad=True)
    for view in (base.t(), base[::2, 1:3], base.expand(2, 4, 6), base.as_strided((2, 2), (1, 3), 5)):
        y = make_first(s).apply(view)
        s.record("output", y)
        s.record("gradient", torch.autograd.grad(y.sum(), base))


@scenario
def channels_last_input(s):
    x = s.randn(1, 2, 2, 3).to(memory_format=torch.channels_last).requires_grad_()
    y = make_first(s).apply(x)
    y.sum().backward()
    s.record("both", y, x)


@scenario
def detached_input(s):
    x = s.randn(2, requires_grad=True)
    s.record("output", make_first(s).apply(x.detach()), make_first(s).apply(x.data))


@scenario
def inference_tensor_input(s):
    with torch.inference_mode():
        i = s.randn(2)
    s.outcome("without grad", make_first(s).apply, i)
    s.outcome("next to one with grad", make_first(s).apply, i, s.randn(2, requires_grad=True))


@scenario
def inference_tensor_saved(s):
    class Saves(s.Function):
        @staticmethod
        def forward(ctx, x, i):
            ctx.save_for_backward(i)
            return x * i

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved_tensors[0], None

    with torch.inference_mode():
        i = s.randn(2)
    s.outcome("call", Saves.apply, s.randn(2, requires_grad=True), i)


@scenario
def meta_tensors(s):
    x = torch.empty(2, device="meta", requires_grad=True)
    y = make_first(s).apply(x)
    s.record("output", y)
    y.sum().backward()
    s.record("gradient", x.grad)


@scenario
def input_with_python_attributes(s):
    x = s.randn(2, requires_grad=True)
    x.marker = "marker"

    class Looks(s.Function):
        @staticmethod
        def forward(ctx, x):
            s.record("marker", x.marker)
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            s.record("saved marker", ctx.saved_tensors[0].marker)
            return grad * 2

    Looks.apply(x).sum().backward()


@scenario
def input_modified_under_no_dirty_mark(s):
    class Modifies(s.Function):
        @staticmethod
        def forward(ctx, x):
            x.add_(1)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    a = s.randn(2, requires_grad=True).clone()
    s.record("both", Modifies.apply(a), a)


@scenario
def input_resized_in_forward(s):
    class Resizes(s.Function):
        @staticmethod
        def forward(ctx, x):
            x.resize_(4)
            return x.new_ones(2)

        @staticmethod
        def backward(ctx, grad):
            return grad

    a = s.randn(2)
    s.outcome("call", Resizes.apply, a)


@scenario
def graph_made_outside_is_not_followed(s):
    x = s.randn(2, requires_grad=True)
    hidden = s.randn(2, requires_grad=True) * 2

    class Closure(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * hidden

        @staticmethod
        def backward(ctx, grad):
            return grad

    s.record("output", Closure.apply(x))
