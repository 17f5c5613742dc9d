# SPDX-License-Identifier: BSD-3-Clause
"""What backward gets and what it may return: counts, shapes, dtypes, devices, undefined gradients."""

import torch
from harness import scenario


def returning(s, result, inputs=2):
    """A Function of ``inputs`` arguments whose backward returns ``result(grad)``."""

    class Returns(s.Function):
        @staticmethod
        def forward(ctx, *args):
            return args[0] * 2

        @staticmethod
        def backward(ctx, grad):
            return result(grad)

    return Returns


def run(s, label, result, *args):
    """Run backward of a Function that returns ``result(grad)`` and record the gradients of ``args``."""

    def call():
        y = returning(s, result).apply(*args)
        leaves = [x for x in args if isinstance(x, torch.Tensor) and x.requires_grad]
        return torch.autograd.grad(y.sum(), leaves, allow_unused=True)

    s.outcome(label, call)


def leaf(s, *shape, **options):
    return s.randn(*(shape or (2,)), requires_grad=True, **options)


@scenario
def right_number(s):
    run(s, "one", lambda g: g, leaf(s))
    run(s, "tuple of one", lambda g: (g,), leaf(s))
    run(s, "two", lambda g: (g, g * 2), leaf(s), leaf(s))


@scenario
def too_few(s):
    run(s, "one of two", lambda g: g, leaf(s), leaf(s))
    run(s, "one of two objects", lambda g: g, leaf(s), 1)
    run(s, "none of one", lambda g: (), leaf(s))


@scenario
def too_many(s):
    run(s, "two of one", lambda g: (g, g), leaf(s))
    run(s, "an object more", lambda g: (g, 1), leaf(s))
    run(s, "None more", lambda g: (g, None), leaf(s))
    run(s, "many None more", lambda g: (g, None, None, None), leaf(s))
    run(s, "None and then a gradient", lambda g: (g, None, g), leaf(s))


@scenario
def list_returned(s):
    run(s, "list of one", lambda g: [g], leaf(s))
    run(s, "list of two", lambda g: [g, g], leaf(s), leaf(s))


@scenario
def other_containers_returned(s):
    run(s, "generator", lambda g: (g for _ in range(1)), leaf(s))
    run(s, "dict", lambda g: {"grad": g}, leaf(s))

    class Special(tuple):
        pass

    run(s, "subclass of tuple", lambda g: Special((g,)), leaf(s))


@scenario
def none_returned(s):
    run(s, "for one", lambda g: None, leaf(s))
    run(s, "for both", lambda g: (None, None), leaf(s), leaf(s))
    run(s, "for the second", lambda g: (g, None), leaf(s), leaf(s))
    run(s, "for all of two, as one", lambda g: None, leaf(s), leaf(s))


@scenario
def none_accumulated(s):
    x = leaf(s)
    returning(s, lambda g: None).apply(x).sum().backward()
    s.record("leaf", x)


@scenario
def gradient_for_a_non_tensor(s):
    run(s, "number", lambda g: (g, g), leaf(s), 1)
    run(s, "None", lambda g: (g, g), leaf(s), None)
    run(s, "object first", lambda g: (g, g), leaf(s), "text")
    run(s, "a number as the gradient", lambda g: (g, 1), leaf(s), "text")
    run(s, "None as it should be", lambda g: (g, None), leaf(s), "text")


@scenario
def gradient_for_a_frozen_tensor(s):
    run(s, "given", lambda g: (g, g), leaf(s), s.randn(2))
    run(s, "of another shape", lambda g: (g, g[:1]), leaf(s), s.randn(2))
    run(s, "an object", lambda g: (g, 1), leaf(s), s.randn(2))


@scenario
def gradient_for_an_integer_tensor(s):
    run(s, "given", lambda g: (g, g), leaf(s), s.tensor([1, 2]))
    run(s, "None", lambda g: (g, None), leaf(s), s.tensor([1, 2]))


@scenario
def gradient_that_is_no_tensor(s):
    for value in (1, 1.5, "text", [1.0, 2.0], object, True):
        run(s, f"{value!r}", lambda g, value=value: value, leaf(s))


@scenario
def gradient_of_another_shape(s):
    for label, result in {
        "smaller": lambda g: g[:1],
        "larger": lambda g: g.repeat(2),
        "expandable": lambda g: g.expand(3, 2),
        "scalar": lambda g: g.sum(),
        "more dimensions": lambda g: g[None],
        "fewer dimensions": lambda g: g.reshape(-1)[0],
        "zero-size": lambda g: g[:0],
    }.items():
        run(s, label, result, leaf(s))


@scenario
def gradient_to_be_reduced(s):
    run(s, "sum to size", lambda g: g.expand(4, 3, 2), leaf(s, 1, 2))
    run(s, "to a scalar", lambda g: torch.ones(2, 3), s.tensor(1.0, requires_grad=True))


@scenario
def gradient_of_another_dtype(s):
    for dtype in (torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64):
        run(s, f"{dtype} for float32", lambda g, dtype=dtype: g.to(dtype), leaf(s))
        run(s, f"{dtype} for complex64", lambda g, dtype=dtype: g.abs().to(dtype), leaf(s, dtype=torch.complex64))


@scenario
def gradient_on_another_device(s):
    run(s, "meta", lambda g: g.to("meta"), leaf(s))


@scenario
def gradient_of_another_layout(s):
    run(s, "sparse for strided", lambda g: g.to_sparse(), leaf(s))
    run(s, "transposed", lambda g: g.t(), leaf(s, 2, 2))
    run(s, "expanded", lambda g: g.sum().expand(2), leaf(s))


@scenario
def gradient_that_is_the_one_given(s):
    x = leaf(s)
    kept = []

    def result(g):
        kept.append(g)
        return g

    returning(s, result).apply(x).backward(torch.ones(2, device=s.device))
    s.record("same memory", x.grad.data_ptr() == kept[0].data_ptr(), x.grad is kept[0])


@scenario
def gradient_that_is_a_leaf(s):
    outside = s.randn(2, requires_grad=True)
    x = leaf(s)
    returning(s, lambda g: outside).apply(x).sum().backward()
    s.record("leaf", x.grad, x.grad is outside)


@scenario
def gradient_that_is_a_parameter(s):
    x = leaf(s)
    p = torch.nn.Parameter(s.randn(2))
    returning(s, lambda g: p).apply(x).sum().backward()
    s.record("leaf", x.grad)


@scenario
def gradient_that_is_a_view(s):
    x = leaf(s)
    returning(s, lambda g: torch.ones(2, 2, device=s.device)[0]).apply(x).sum().backward()
    s.record("leaf", x.grad)


@scenario
def same_gradient_for_two(s):
    x, y = leaf(s), leaf(s)
    returning(s, lambda g: (g, g)).apply(x, y).sum().backward()
    s.record("leaves", x, y, x.grad is y.grad, x.grad.data_ptr() == y.grad.data_ptr())


@scenario
def gradient_modified_in_place(s):
    x = leaf(s)
    y = returning(s, lambda g: g.mul_(3)).apply(x)
    given = torch.ones(2, device=s.device)
    y.backward(given)
    s.record("given", given, x.grad)


@scenario
def gradients_accumulate(s):
    x = leaf(s)
    for _ in range(3):
        returning(s, lambda g: g * 2).apply(x).sum().backward()
    s.record("leaf", x)


@scenario
def gradient_with_nan(s):
    x = leaf(s)
    returning(s, lambda g: g * float("nan")).apply(x).sum().backward()
    s.record("leaf", x)


@scenario
def gradient_for_the_same_input_twice(s):
    x = leaf(s)
    returning(s, lambda g: (g, g * 10)).apply(x, x).sum().backward()
    s.record("leaf", x)


@scenario
def gradient_given_to_backward(s):
    seen = []

    def result(g):
        seen.append(g)
        s.record("given", g)
        return g

    x = leaf(s)
    y = returning(s, result).apply(x)
    given = s.randn(2)
    y.backward(given, retain_graph=True)
    s.record("same object", seen[0] is given)
    s.raises("wrong shape", y.backward, s.randn(3))
    s.raises("not a scalar", y.backward)


@scenario
def gradient_of_a_strided_output(s):
    class Transposes(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x.t().clone(memory_format=torch.preserve_format)

        @staticmethod
        def backward(ctx, grad):
            s.record("gradient", grad)
            return grad.t()

    x = leaf(s, 2, 3)
    Transposes.apply(x).sum().backward()
    s.record("leaf", x)


# Undefined gradients


def making_two(s, *, materialize=None, nondiff=None):
    class Two(s.Function):
        @staticmethod
        def forward(ctx, x):
            if materialize is not None:
                ctx.set_materialize_grads(materialize)
            if nondiff is not None:
                ctx._materialize_non_diff_grads = nondiff
            a, b, c = x * 2, x.double().sum(), x > 0
            ctx.mark_non_differentiable(c)
            return a, b, c

        @staticmethod
        def backward(ctx, *grads):
            s.record("gradients", grads)
            return None if grads[0] is None else grads[0] * 2

    return Two


@scenario
def materialized(s):
    for used in (0, 1):
        x = leaf(s)
        making_two(s).apply(x)[used].sum().backward()
        s.record("leaf", x)


@scenario
def not_materialized(s):
    for used in (0, 1):
        x = leaf(s)
        making_two(s, materialize=False).apply(x)[used].sum().backward()
        s.record("leaf", x)


@scenario
def non_differentiable_not_materialized(s):
    for materialize in (True, False):
        making_two(s, materialize=materialize, nondiff=False).apply(leaf(s))[0].sum().backward()


@scenario
def materialized_flag_changed_after_forward(s):
    outputs = making_two(s).apply(leaf(s))
    outputs[0].grad_fn.materialize_grads = False
    outputs[0].sum().backward()


@scenario
def undefined_gradient_of_the_only_output(s):
    class Unused(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return None

    class After(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            s.record("given", grad)
            return grad

    x = leaf(s)
    Unused.apply(After.apply(x)).sum().backward()
    s.record("leaf", x)


@scenario
def undefined_gradient_not_materialized_through_a_chain(s):
    class Unused(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return None

    class After(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.set_materialize_grads(False)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            s.record("given", grad)
            return grad

    x = leaf(s)
    Unused.apply(After.apply(x)).sum().backward()
    s.record("leaf", x)


@scenario
def materialized_gradient_of_every_kind_of_output(s):
    class Many(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2, x + 1j, x.half(), x[:0], x.sum(), x.to(torch.int32), None, 1, x.expand(3, 2)

        @staticmethod
        def backward(ctx, *grads):
            s.record("gradients", grads)
            return grads[0]

    Many.apply(leaf(s))[0].sum().backward()


@scenario
def materialized_with_create_graph(s):
    x = leaf(s)
    a, b, _ = making_two(s).apply(x)
    s.record("gradient", torch.autograd.grad(a.sum(), x, create_graph=True))


# mark_non_differentiable


def marking(s, mark, make=lambda x: (x * 2, x * 3)):
    class Marks(s.Function):
        @staticmethod
        def forward(ctx, x):
            outputs = make(x)
            mark(ctx, x, outputs)
            return outputs

        @staticmethod
        def backward(ctx, *grads):
            s.record("gradients", grads)
            return grads[0]

    return Marks


@scenario
def non_differentiable_output(s):
    x = leaf(s)
    a, b = marking(s, lambda ctx, x, outputs: ctx.mark_non_differentiable(outputs[1])).apply(x)
    s.record("outputs", a, b)
    a.sum().backward()
    s.raises("backward of the other", lambda: b.sum().backward())


@scenario
def every_output_non_differentiable(s):
    a, b = marking(s, lambda ctx, x, outputs: ctx.mark_non_differentiable(*outputs)).apply(leaf(s))
    s.record("outputs", a, b)


@scenario
def non_differentiable_input_returned(s):
    x = leaf(s)
    a, b = marking(s, lambda ctx, x, outputs: ctx.mark_non_differentiable(x), make=lambda x: (x, x * 2)).apply(x)
    s.record("outputs", a, b, a is x, x)


@scenario
def non_differentiable_non_leaf_input_returned(s):
    x = leaf(s).clone()
    a, _ = marking(s, lambda ctx, x, outputs: ctx.mark_non_differentiable(x), make=lambda x: (x, x * 2)).apply(x)
    s.record("outputs", a, a is x, x)


@scenario
def non_differentiable_view(s):
    x = leaf(s).clone()
    a, b = marking(
        s,
        lambda ctx, x, outputs: ctx.mark_non_differentiable(outputs[1]),
        make=lambda x: (x * 2, x.view_as(x)),
    ).apply(x)
    s.record("outputs", a, b)
    s.outcome("in place", lambda: b.add_(1))


@scenario
def non_differentiable_is_no_output(s):
    outside = s.randn(2)
    a, _ = marking(s, lambda ctx, x, outputs: ctx.mark_non_differentiable(outside)).apply(leaf(s))
    s.record("outputs", a, outside)


@scenario
def non_differentiable_is_no_tensor(s):
    for thing in (1, None, "text", [s.randn(1)]):
        function = marking(s, lambda ctx, x, outputs, thing=thing: ctx.mark_non_differentiable(thing))
        s.raises(f"{type(thing).__name__}", function.apply, leaf(s))
        s.outcome(f"{type(thing).__name__} without grad", function.apply, s.randn(2))


@scenario
def non_differentiable_marked_twice(s):
    def mark(ctx, x, outputs):
        ctx.mark_non_differentiable(outputs[0])
        ctx.mark_non_differentiable(outputs[1])

    s.record("outputs", marking(s, mark).apply(leaf(s)))


@scenario
def non_differentiable_with_nothing(s):
    s.record("outputs", marking(s, lambda ctx, x, outputs: ctx.mark_non_differentiable()).apply(leaf(s)))


@scenario
def non_differentiable_saved(s):
    def mark(ctx, x, outputs):
        ctx.mark_non_differentiable(outputs[1])
        ctx.save_for_backward(outputs[1])

    a, b = marking(s, mark).apply(leaf(s))
    s.record("saved", a.grad_fn.saved_tensors, a.grad_fn.saved_tensors[0] is b)
    a.sum().backward()


@scenario
def non_differentiable_same_output_twice(s):
    def make(x):
        y = x * 2
        return y, y

    s.record("outputs", marking(s, lambda ctx, x, out: ctx.mark_non_differentiable(out[1]), make=make).apply(leaf(s)))


# Double gradients


@scenario
def double_gradient_through_saved_inputs(s):
    class Cube(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return 3 * x * x * grad

    s.differentiate("cube", Cube.apply, leaf(s))


@scenario
def double_gradient_through_saved_outputs(s):
    class Exp(s.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, grad):
            (y,) = ctx.saved_tensors
            s.record("saved", y)
            return grad * y

    s.differentiate("exp", Exp.apply, leaf(s))


@scenario
def double_gradient_through_another_function(s):
    class Scale(s.Function):
        @staticmethod
        def forward(ctx, x, factor):
            ctx.save_for_backward(x, factor)
            return x * factor

        @staticmethod
        def backward(ctx, grad):
            x, factor = ctx.saved_tensors
            return Scale.apply(grad, factor), (grad * x).sum()

    s.differentiate("scale", Scale.apply, leaf(s), s.tensor(3.0, requires_grad=True))


@scenario
def double_gradient_with_intermediate_saved(s):
    class Exp(s.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(y.clone())
            return y

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved_tensors[0]

    s.differentiate("exp", Exp.apply, leaf(s))


@scenario
def double_gradient_with_attribute_saved(s):
    class Square(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.x = x
            return x * x

        @staticmethod
        def backward(ctx, grad):
            return 2 * ctx.x * grad

    s.differentiate("square", Square.apply, leaf(s))
