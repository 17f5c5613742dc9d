# SPDX-License-Identifier: BSD-3-Clause
"""mark_dirty: Functions that change their inputs."""

import torch
from harness import scenario


def adding(s, *, dirty=lambda ctx, x: ctx.mark_dirty(x), change=lambda x: x.add_(1), result=lambda x: x):
    """A Function that changes x, marks it and returns ``result(x)``."""

    class Adds(s.Function):
        @staticmethod
        def forward(ctx, x):
            dirty(ctx, x)
            change(x)
            return result(x)

        @staticmethod
        def backward(ctx, *grads):
            s.record("gradients", grads)
            return grads[0] * 3

    return Adds


@scenario
def dirty_input(s):
    x = s.randn(2, requires_grad=True)
    a = x.clone()
    b = adding(s).apply(a)
    s.record("output", b, b is a)
    b.sum().backward()
    s.record("input", x)


@scenario
def dirty_leaf(s):
    x = s.randn(2, requires_grad=True)
    s.raises("leaf", adding(s).apply, x)
    s.record("leaf afterwards", x)


@scenario
def dirty_leaf_under_no_grad(s):
    x = s.randn(2, requires_grad=True)
    with torch.no_grad():
        s.outcome("call", adding(s).apply, x)
    s.record("leaf", x)


@scenario
def dirty_without_grad(s):
    x = s.randn(2)
    y = adding(s).apply(x)
    s.record("output", y, y is x)


@scenario
def dirty_input_without_grad_gets_one(s):
    class AddTo(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.mark_dirty(x)
            return x.add_(y)

        @staticmethod
        def backward(ctx, grad):
            return grad, grad * 2

    frozen, y = s.randn(2), s.randn(2, requires_grad=True)
    z = AddTo.apply(frozen, y)
    s.record("output", z, z is frozen)
    z.sum().backward()
    s.record("gradient", y.grad)


@scenario
def dirty_view(s):
    base = s.randn(2, 2, requires_grad=True).clone()
    view = base[0]
    y = adding(s).apply(view)
    s.record("output", y, y is view)
    s.record("base", base)
    base.sum().backward()


@scenario
def dirty_view_of_a_leaf(s):
    x = s.randn(2, 2, requires_grad=True)
    s.raises("view of a leaf", adding(s).apply, x[0])


@scenario
def dirty_view_of_a_tensor_without_grad(s):
    base = s.randn(2, 2)
    y = adding(s).apply(base[0])
    s.record("output", y, base)


@scenario
def dirty_view_gets_a_gradient(s):
    class AddTo(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.mark_dirty(x)
            return x.add_(y)

        @staticmethod
        def backward(ctx, grad):
            return grad, grad * 2

    base, y = s.randn(2, 2), s.randn(2, requires_grad=True)
    z = AddTo.apply(base[0], y)
    s.record("output", z)
    s.record("base", base)
    base.sum().backward()
    s.record("gradient", y.grad)


@scenario
def dirty_view_with_several_outputs(s):
    base = s.randn(2, 2, requires_grad=True).clone()
    s.outcome("call", adding(s, result=lambda x: (x, x * 2)).apply, base[0])


@scenario
def dirty_output_of_unbind(s):
    base = s.randn(2, 2, requires_grad=True).clone()
    s.raises("call", adding(s).apply, base.unbind()[0])


@scenario
def dirty_view_made_under_no_grad(s):
    base = s.randn(2, 2, requires_grad=True).clone()
    with torch.no_grad():
        view = base[0]
    s.raises("call", adding(s).apply, view)


@scenario
def dirty_view_of_a_custom_function(s):
    class View(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, grad):
            return grad

    base = s.randn(2, 2, requires_grad=True).clone()
    s.raises("call", adding(s).apply, View.apply(base))


@scenario
def dirty_expanded_input(s):
    base = s.randn(1, 2, requires_grad=True).clone()
    s.outcome("call", adding(s, change=lambda x: x).apply, base.expand(3, 2))


@scenario
def dirty_not_returned(s):
    a = s.randn(2, requires_grad=True).clone()
    s.outcome("new tensor", adding(s, result=lambda x: x * 2).apply, a)
    s.outcome("nothing", adding(s, result=lambda x: None).apply, a)
    s.outcome("view", adding(s, result=lambda x: x.view_as(x)).apply, a)
    s.record("input", a)


@scenario
def dirty_not_returned_without_grad(s):
    a = s.randn(2)
    s.outcome("new tensor", adding(s, result=lambda x: x * 2).apply, a)
    s.record("input", a)


@scenario
def dirty_is_no_input(s):
    outside = s.randn(2)
    s.outcome(
        "another tensor",
        adding(s, dirty=lambda ctx, x: ctx.mark_dirty(outside), change=lambda x: x, result=lambda x: x * 2).apply,
        s.randn(2, requires_grad=True),
    )
    s.record("outside", outside)


@scenario
def dirty_is_an_output(s):
    kept = []

    def result(x):
        return kept[0]

    def dirty(ctx, x):
        kept.append(x * 2)
        ctx.mark_dirty(kept[0])

    y = s.outcome(
        "output", adding(s, dirty=dirty, change=lambda x: x, result=result).apply, s.randn(2, requires_grad=True)
    )
    s.record("same", y is kept[0])


@scenario
def dirty_is_no_tensor(s):
    for thing in (1, None, "text", [s.randn(1)]):
        function = adding(s, dirty=lambda ctx, x, thing=thing: ctx.mark_dirty(thing))
        s.raises(f"{type(thing).__name__}", function.apply, s.randn(2, requires_grad=True).clone())
        s.outcome(f"{type(thing).__name__} without grad", function.apply, s.randn(2))


@scenario
def dirty_marked_but_not_changed(s):
    a = s.randn(2, requires_grad=True).clone()
    y = adding(s, change=lambda x: x).apply(a)
    s.record("output", y, y is a)
    y.sum().backward()


@scenario
def changed_but_not_marked(s):
    a = s.randn(2, requires_grad=True).clone()
    y = adding(s, dirty=lambda ctx, x: None).apply(a)
    s.record("output", y, y is a, a)
    y.sum().backward()


@scenario
def dirty_marked_twice(s):
    def dirty(ctx, x):
        ctx.mark_dirty(x)
        ctx.mark_dirty(x)

    y = adding(s, dirty=dirty).apply(s.randn(2, requires_grad=True).clone())
    s.record("output", y)


@scenario
def dirty_given_twice(s):
    y = adding(s, dirty=lambda ctx, x: ctx.mark_dirty(x, x)).apply(s.randn(2, requires_grad=True).clone())
    s.record("output", y)


@scenario
def dirty_with_nothing(s):
    y = adding(s, dirty=lambda ctx, x: ctx.mark_dirty()).apply(s.randn(2, requires_grad=True).clone())
    s.record("output", y)


@scenario
def dirty_returned_twice(s):
    a = s.randn(2, requires_grad=True).clone()
    y, z = adding(s, result=lambda x: (x, x)).apply(a)
    s.record("outputs", y, z, y is a, z is a)
    s.outcome("backward", lambda: (y + z).sum().backward())


@scenario
def dirty_is_given_twice_as_input(s):
    class Twice(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.mark_dirty(x)
            return x.add_(1)

        @staticmethod
        def backward(ctx, grad):
            return grad, grad

    a = s.randn(2, requires_grad=True).clone()
    y = s.outcome("call", Twice.apply, a, a)
    s.outcome("backward", lambda: y.sum().backward())


@scenario
def two_dirty_inputs(s):
    class Swap(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.mark_dirty(x, y)
            x.add_(1)
            y.add_(2)
            return y, x

        @staticmethod
        def backward(ctx, y, x):
            return x * 2, y * 3

    x, y = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
    a, b = x.clone(), y.clone()
    c, d = Swap.apply(a, b)
    s.record("outputs", c, d, c is b, d is a)
    (c * 5 + d).sum().backward()
    s.record("inputs", x, y)


@scenario
def two_dirty_inputs_of_which_one_is_a_leaf(s):
    class Both(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.mark_dirty(x, y)
            return x.add_(1), y.add_(1)

    s.raises("call", Both.apply, s.randn(2, requires_grad=True).clone(), s.randn(2, requires_grad=True))


@scenario
def dirty_and_a_new_output(s):
    x = s.randn(2, requires_grad=True)
    a = x.clone()
    y, z = adding(s, result=lambda x: (x, x * 2)).apply(a)
    s.record("outputs", y, z, y is a)
    (y + z).sum().backward()
    s.record("input", x)


@scenario
def dirty_with_setup_context(s):
    class AddOne(s.Function):
        @staticmethod
        def forward(x):
            return x.add_(1)

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("same", inputs[0] is output)
            ctx.mark_dirty(inputs[0])
            ctx.save_for_backward(output)

        @staticmethod
        def backward(ctx, grad):
            s.record("saved", ctx.saved_tensors)
            return grad * 3

    x = s.randn(2, requires_grad=True)
    a = x.clone()
    y = AddOne.apply(a)
    s.record("output", y, y is a)
    y.sum().backward()


@scenario
def dirty_and_saved(s):
    def dirty(ctx, x):
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)

    a = s.randn(2, requires_grad=True).clone()
    y = adding(s, dirty=dirty).apply(a)
    s.record("saved", y.grad_fn.saved_tensors, y.grad_fn.saved_tensors[0] is y)
    y.sum().backward()


@scenario
def dirty_and_saved_earlier_by_another(s):
    x = s.randn(2, requires_grad=True)
    a = x.clone()
    product = a * a
    adding(s).apply(a)
    s.raises("backward", lambda: product.sum().backward())


@scenario
def dirty_and_non_differentiable(s):
    def dirty(ctx, x):
        ctx.mark_dirty(x)
        ctx.mark_non_differentiable(x)

    a = s.randn(2, requires_grad=True).clone()
    s.outcome("non-leaf", adding(s, dirty=dirty).apply, a)
    s.record("input", a)
    s.outcome("leaf", adding(s, dirty=dirty).apply, s.randn(2, requires_grad=True))
    s.outcome("without grad", adding(s, dirty=dirty).apply, s.randn(2))


@scenario
def dirty_and_non_differentiable_integer(s):
    class Counts(s.Function):
        @staticmethod
        def forward(ctx, x, count):
            ctx.mark_dirty(count)
            ctx.mark_non_differentiable(count)
            return x * 2, count.add_(1)

        @staticmethod
        def backward(ctx, grad, _):
            return grad * 2, None

    count = s.tensor([0])
    y, c = Counts.apply(s.randn(2, requires_grad=True), count)
    s.record("outputs", y, c, c is count)
    y.sum().backward()


@scenario
def versions(s):
    numbers = []
    for function in (
        adding(s),
        adding(s, change=lambda x: x),
        adding(s, dirty=lambda ctx, x: None),
        adding(s, change=lambda x: x.add_(1).mul_(2)),
    ):
        a = s.randn(2, requires_grad=True).clone()
        b = function.apply(a)
        numbers.append((a._version, b._version))
    s.record("versions", numbers)


@scenario
def version_is_shared_with_the_base(s):
    base = s.randn(2, 2, requires_grad=True).clone()
    adding(s).apply(base[0])
    s.record("versions", base._version, base[1]._version)


@scenario
def dirty_chain(s):
    x = s.randn(2, requires_grad=True)
    a = x.clone()
    for _ in range(3):
        a = adding(s).apply(a)
    s.record("output", a)
    a.sum().backward()
    s.record("input", x)


@scenario
def dirty_output_modified_again(s):
    x = s.randn(2, requires_grad=True)
    a = adding(s).apply(x.clone())
    a.mul_(2)
    s.record("output", a)
    a.sum().backward()
    s.record("input", x)


@scenario
def dirty_through_data(s):
    y = adding(s, change=lambda x: x.data.add_(1)).apply(s.randn(2, requires_grad=True).clone())
    s.record("output", y)


@scenario
def dirty_inference_tensor(s):
    with torch.inference_mode():
        i = s.randn(2)
        s.outcome("inside", adding(s).apply, i)
    s.outcome("outside", adding(s).apply, i)


@scenario
def dirty_in_inference_mode(s):
    a = s.randn(2, requires_grad=True).clone()
    with torch.inference_mode():
        s.outcome("call", adding(s).apply, a)
    s.record("input", a)


@scenario
def dirty_with_a_double_gradient(s):
    class Square(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x.clone())
            ctx.mark_dirty(x)
            return x.pow_(2)

        @staticmethod
        @s.once_differentiable
        def backward(ctx, grad):
            return grad * 2 * ctx.saved_tensors[0]

    x = s.randn(2, requires_grad=True)
    (grad,) = torch.autograd.grad(Square.apply(x * 1).exp().sum(), x, create_graph=True)
    s.record("gradient", grad)


@scenario
def grad_fn_of_a_dirty_tensor(s):
    a = s.randn(2, requires_grad=True).clone()
    before = a.grad_fn
    b = adding(s).apply(a)
    s.record("history", a.grad_fn is b.grad_fn, a.grad_fn.next_functions[0][0] is before)


@scenario
def dirty_subset_of_the_inputs(s):
    class Second(s.Function):
        @staticmethod
        def forward(ctx, x, y, flag):
            ctx.mark_dirty(y)
            return x * 2, y.add_(x)

        @staticmethod
        def backward(ctx, a, b):
            return a * 2 + b, b, None

    x, y = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
    b = y.clone()
    outputs = Second.apply(x, b, True)
    s.record("outputs", outputs, outputs[1] is b)
    (outputs[0] * outputs[1]).sum().backward()
    s.record("inputs", x, y)
