# SPDX-License-Identifier: BSD-3-Clause
"""Forward-mode AD through jvp, with in-place functions and views."""

import torch
import torch._decomp.decompositions_for_jvp  # torch does so at the first dual level, with warnings
import torch.autograd.forward_ad as fwAD
from harness import scenario
from harness.small_functions import make_product, make_square


def dual(s, *shape, requires_grad=False):
    return fwAD.make_dual(s.randn(*shape, requires_grad=requires_grad), s.randn(*shape))


def make_two_in_two_out(s, *, materialize=True, style="old"):
    def save(ctx, x, y):
        ctx.set_materialize_grads(materialize)
        ctx.save_for_forward(x, y)
        ctx.save_for_backward(x, y)

    class Base(s.Function):
        @staticmethod
        def backward(ctx, a, b):
            return a, b

        @staticmethod
        def jvp(ctx, x_t, y_t):
            s.record("jvp", x_t, y_t, torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled())
            x, y = ctx.saved_tensors
            s.record("saved", x, y)
            return None if x_t is None else x_t * y, None if y_t is None else y_t * x

    if style == "old":

        class Two(Base):
            @staticmethod
            def forward(ctx, x, y):
                s.record("inputs of forward", x, y)
                save(ctx, x, y)
                return x * 2, y * 3
    else:

        class Two(Base):
            @staticmethod
            def forward(x, y):
                return x * 2, y * 3

            @staticmethod
            def setup_context(ctx, inputs, output):
                save(ctx, *inputs)

    return Two.apply


def make_returning(s, result, *, outputs=lambda x: x * 2):
    """A Function whose jvp returns ``result(ctx, tangents)``."""

    class Returns(s.Function):
        @staticmethod
        def forward(ctx, *inputs):
            return outputs(inputs[0])

        @staticmethod
        def jvp(ctx, *tangents):
            return result(ctx, tangents)

    return Returns.apply


@scenario
def jvp_of_both_styles(s):
    for style in "old", "new":
        with fwAD.dual_level():
            s.record(style, make_two_in_two_out(s, style=style)(dual(s, 2), dual(s, 2)))


@scenario
def jvp_with_one_tangent_missing(s):
    for materialize in True, False:
        with fwAD.dual_level():
            call = make_two_in_two_out(s, materialize=materialize)
            s.outcome(f"materialize={materialize}", call, s.randn(2), dual(s, 2))


@scenario
def jvp_not_called_without_a_dual(s):
    with fwAD.dual_level():
        s.record("outputs", make_two_in_two_out(s)(s.randn(2), s.randn(2)))


@scenario
def jvp_under_no_grad(s):
    with fwAD.dual_level(), torch.no_grad():
        s.record("outputs", make_two_in_two_out(s)(dual(s, 2), dual(s, 2)))


@scenario
def jvp_with_forward_grad_disabled(s):
    with fwAD.dual_level(), fwAD._set_fwd_grad_enabled(False):
        s.record("outputs", make_two_in_two_out(s)(dual(s, 2), dual(s, 2)))


@scenario
def jvp_under_inference_mode(s):
    with torch.inference_mode(), fwAD.dual_level():
        s.outcome("outputs", lambda: make_two_in_two_out(s)(dual(s, 2), dual(s, 2)))


@scenario
def forward_over_reverse(s):
    product = make_product(s.Function)
    with fwAD.dual_level():
        x = s.randn(3, requires_grad=True)
        y = fwAD.make_dual(x, s.randn(3))
        z = product.apply(y, y)
        s.record("output", z)
        s.record("gradient", torch.autograd.grad(z.sum(), x))


@scenario
def reverse_over_forward(s):
    product = make_product(s.Function)
    x, tangent = s.randn(3, requires_grad=True), s.randn(3, requires_grad=True)
    with fwAD.dual_level():
        y = product.apply(fwAD.make_dual(x, tangent), x)
        (_, out_tangent) = fwAD.unpack_dual(y)
        s.record("output", y)
        s.record("gradients", torch.autograd.grad(out_tangent.sum(), [x, tangent]))


@scenario
def jvp_of_the_wrong_rule_is_used(s):
    with fwAD.dual_level():
        s.record("square", make_square(s.Function).apply(dual(s, 3)))


@scenario
def jvp_missing(s):
    class NoJvp(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad

    with fwAD.dual_level():
        s.raises("call", NoJvp.apply, dual(s, 2))
        s.record("without a tangent", NoJvp.apply(s.randn(2, requires_grad=True)))


@scenario
def jvp_returns_too_few_or_too_many(s):
    with fwAD.dual_level():
        x = dual(s, 2)
        one = make_returning(s, lambda ctx, tangents: (tangents[0], tangents[0]))
        s.raises("two for one output", one, x)
        s.raises("none at all", make_returning(s, lambda ctx, tangents: ()), x)
        two = make_returning(s, lambda ctx, tangents: tangents[0], outputs=lambda x: (x * 1, x * 2))
        s.raises("one for two outputs", two, x)


@scenario
def jvp_returns_what_is_no_tensor(s):
    with fwAD.dual_level():
        for value in 3, "text", [1], object:
            s.outcome(f"{value!r:.10}", make_returning(s, lambda ctx, tangents, value=value: value), dual(s, 2))


@scenario
def jvp_returns_a_list(s):
    with fwAD.dual_level():
        call = make_returning(s, lambda ctx, t: [t[0], t[0] * 2], outputs=lambda x: (x * 1, x * 2))
        s.outcome("list", call, dual(s, 2))


@scenario
def jvp_returns_none(s):
    with fwAD.dual_level():
        s.outcome("None", make_returning(s, lambda ctx, tangents: None), dual(s, 2))
        s.outcome(
            "one of two",
            make_returning(s, lambda ctx, t: (None, t[0]), outputs=lambda x: (x * 1, x * 2)),
            dual(s, 2),
        )


@scenario
def jvp_returns_a_wrong_shape_or_dtype(s):
    changes = {
        "shape": lambda t: t.repeat(2),
        "dtype": lambda t: t.double(),
        "integer": lambda t: t.long(),
        "complex": lambda t: t.to(torch.complex64),
        "expanded": lambda t: t[:1].expand(2),
        "meta": lambda t: t.to("meta"),
    }
    with fwAD.dual_level():
        for name, change in changes.items():
            s.outcome(name, make_returning(s, lambda ctx, t, change=change: change(t[0])), dual(s, 2))


@scenario
def jvp_of_non_tensor_inputs_and_outputs(s):
    class Mixed(s.Function):
        @staticmethod
        def forward(ctx, x, scale, text):
            ctx.scale = scale
            return x * scale, text, None

        @staticmethod
        def jvp(ctx, *tangents):
            s.record("tangents", tangents)
            return tangents[0] * ctx.scale, None, None

    with fwAD.dual_level():
        s.outcome("call", Mixed.apply, dual(s, 2), 3, "text")


@scenario
def jvp_of_a_non_differentiable_output(s):
    class Sort(s.Function):
        @staticmethod
        def forward(ctx, x):
            values, index = x.sort()
            ctx.mark_non_differentiable(index)
            ctx.index = index
            return values, index

        @staticmethod
        def jvp(ctx, tangent):
            return tangent[ctx.index], None

    class Wrong(Sort):
        @staticmethod
        def jvp(ctx, tangent):
            return tangent[ctx.index], tangent

    with fwAD.dual_level():
        s.record("None", Sort.apply(dual(s, 3)))
        s.outcome("a tangent", Wrong.apply, dual(s, 3))


@scenario
def jvp_raises(s):
    def fails(ctx, tangents):
        raise KeyError("jvp")

    with fwAD.dual_level():
        s.raises("call", make_returning(s, fails), dual(s, 2))
        s.record("still works", make_product(s.Function).apply(dual(s, 2), dual(s, 2)))


# In place


def make_in_place(s, jvp, *, dirty=True):
    class InPlace(s.Function):
        @staticmethod
        def forward(ctx, x):
            if dirty:
                ctx.mark_dirty(x)
            return x.mul_(2)

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

        @staticmethod
        def jvp(ctx, tangent):
            return jvp(tangent)

    return InPlace.apply


@scenario
def in_place_with_an_in_place_tangent(s):
    with fwAD.dual_level():
        x = dual(s, 2)
        y = make_in_place(s, lambda t: t.mul_(2))(x)
        s.record("outputs", x, y)


@scenario
def in_place_with_a_new_tangent(s):
    with fwAD.dual_level():
        x = dual(s, 2)
        s.outcome("call", make_in_place(s, lambda t: t * 2), x)
        s.record("input", x)


@scenario
def in_place_without_a_tangent(s):
    with fwAD.dual_level():
        s.record("call", make_in_place(s, lambda t: t)(s.randn(2)))


@scenario
def in_place_on_a_view(s):
    with fwAD.dual_level():
        base = dual(s, 2, 2)
        row = base[0]
        s.outcome("call", make_in_place(s, lambda t: t.mul_(2)), row)
        s.record("base", base, row)


@scenario
def in_place_on_a_view_that_got_its_tangent_later(s):
    with fwAD.dual_level():
        base = s.randn(2, 2)
        row = base[0]
        row.copy_(dual(s, 2))
        s.outcome("call", make_in_place(s, lambda t: t.mul_(2)), row)
        s.record("base", base, row)


@scenario
def in_place_requiring_grad(s):
    with fwAD.dual_level():
        x = dual(s, 2, requires_grad=True) * 1
        y = make_in_place(s, lambda t: t.mul_(2))(x)
        s.record("outputs", x, y)


@scenario
def in_place_not_marked(s):
    with fwAD.dual_level():
        x = dual(s, 2)
        s.outcome("call", make_in_place(s, lambda t: t * 2, dirty=False), x)
        s.record("input", x)


# Views


def make_view(s, jvp, view=lambda x: x[0]):
    class View(s.Function):
        @staticmethod
        def forward(ctx, x):
            return view(x)

        @staticmethod
        def backward(ctx, grad):
            return torch.stack([grad, torch.zeros_like(grad)])

        @staticmethod
        def jvp(ctx, tangent):
            return jvp(tangent)

    return View.apply


@scenario
def view_with_a_view_of_the_tangent(s):
    with fwAD.dual_level():
        x = dual(s, 2, 2)
        row = make_view(s, lambda t: t[0])(x)
        s.record("view", row)
        row.mul_(3)
        s.record("after in place", x, row)


@scenario
def view_with_another_tangent(s):
    with fwAD.dual_level():
        s.outcome("call", make_view(s, lambda t: t[0].clone()), dual(s, 2, 2))


@scenario
def view_with_a_view_of_another_layout(s):
    with fwAD.dual_level():
        s.outcome("call", make_view(s, lambda t: t[:, 0]), dual(s, 2, 2))


@scenario
def view_without_a_tangent(s):
    with fwAD.dual_level():
        x = s.randn(2, 2)
        row = make_view(s, lambda t: t[0])(x)
        s.record("view", row)
        s.outcome("in place with a dual", lambda: row.mul_(dual(s, 2)))
        s.record("after", x, row)


@scenario
def input_returned_as_is(s):
    with fwAD.dual_level():
        for name, jvp in {"the same": lambda t: t, "a view": lambda t: t.view_as(t), "a copy": lambda t: t * 1}.items():
            x = dual(s, 2)
            y = s.outcome(name, make_view(s, jvp, view=lambda x: x), x)
            s.record("the same object", y is x)


@scenario
def two_views_of_one_input(s):
    with fwAD.dual_level():
        call = make_view(s, lambda t: (t[0], t[1]), view=lambda x: (x[0], x[1]))
        s.outcome("call", call, dual(s, 2, 2))


# save_for_forward


@scenario
def save_for_forward_is_seen_only_by_jvp(s):
    class Saves(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_forward(x, y, None)
            s.record("saved_for_forward", ctx.saved_for_forward)
            return x * y

        @staticmethod
        def backward(ctx, grad):
            s.record("in backward", ctx.saved_tensors)
            return grad, grad

        @staticmethod
        def jvp(ctx, x_t, y_t):
            s.record("in jvp", ctx.saved_tensors, ctx.saved_for_forward)
            return x_t + y_t

    with fwAD.dual_level():
        z = Saves.apply(dual(s, 2, requires_grad=True), dual(s, 2))
        s.outcome("after jvp", lambda: z.grad_fn.saved_for_forward)
        z.sum().backward()
        s.outcome("after backward", lambda: z.grad_fn.saved_for_forward)


@scenario
def save_for_forward_of_what_is_no_tensor(s):
    class Saves(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_forward(x, 3)
            return x

    s.raises("call", Saves.apply, s.randn(2))


@scenario
def saved_for_forward_assigned(s):
    class Saves(s.Function):
        @staticmethod
        def forward(ctx, x, value):
            ctx.saved_for_forward = value
            return x * 2

        @staticmethod
        def jvp(ctx, tangent, _):
            s.record("saved", ctx.saved_tensors)
            return tangent * 2

    with fwAD.dual_level():
        for value in ("text",), [1], 3, None:
            s.outcome(f"{value!r}", Saves.apply, dual(s, 2), value)


@scenario
def attributes_between_forward_and_jvp(s):
    class Carries(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.carried = x * 2
            s.record("forward", ctx.needs_input_grad)
            return x * 2

        @staticmethod
        def jvp(ctx, tangent):
            s.record("jvp", ctx.carried, ctx.needs_input_grad, ctx)
            carried = ctx.carried
            del ctx.carried
            return tangent * carried

    with fwAD.dual_level():
        s.record("output", Carries.apply(dual(s, 2)))


@scenario
def dual_level_ended(s):
    with fwAD.dual_level():
        y = make_product(s.Function).apply(dual(s, 2, requires_grad=True), dual(s, 2))
    s.record("output", y)
    s.record("gradient", y.grad_fn)
    s.record("used after its level", make_square(s.Function).apply(y.detach()))


@scenario
def dual_number_saved_for_backward(s):
    class Saves(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.exp()

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            s.record("saved", x)
            return grad * x.exp()

        @staticmethod
        def jvp(ctx, tangent):
            return tangent

    with fwAD.dual_level():
        x = dual(s, 2, requires_grad=True)
        Saves.apply(x).sum().backward()


@scenario
def complex_and_integer_inputs(s):
    product = make_product(s.Function)
    with fwAD.dual_level():
        x = fwAD.make_dual(s.randn(2, dtype=torch.complex64), s.randn(2, dtype=torch.complex64))
        s.record("complex", product.apply(x, x))

    class Gather(s.Function):
        @staticmethod
        def forward(ctx, x, index):
            ctx.save_for_forward(index)
            return x[index]

        @staticmethod
        def jvp(ctx, x_t, index_t):
            s.record("tangent of an integer", index_t)
            return x_t[ctx.saved_tensors[0]]

    with fwAD.dual_level():
        s.record("integer", Gather.apply(dual(s, 3), s.tensor([2, 0])))


@scenario
def zero_tangent_tensor(s):
    with fwAD.dual_level():
        x = fwAD.make_dual(s.randn(2), torch._efficientzerotensor((2,), device=s.device))
        s.record("output", make_product(s.Function).apply(x, s.randn(2)))


@scenario
def once_differentiable_and_jvp(s):
    class Once(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @s.once_differentiable
        def backward(ctx, grad):
            return 2 * ctx.saved_tensors[0] * grad

        @staticmethod
        @s.once_differentiable
        def jvp(ctx, tangent):
            s.record("jvp", torch.is_grad_enabled())
            return tangent * 2

    with fwAD.dual_level():
        y = Once.apply(dual(s, 2, requires_grad=True))
        s.record("output", y)
        y.sum().backward()
