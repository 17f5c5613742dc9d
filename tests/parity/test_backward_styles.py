# SPDX-License-Identifier: BSD-3-Clause
"""backward, vjp, once_differentiable, boxed gradients and jvp as rules of a class."""

import weakref

import torch
from harness import scenario


def make_function(s, **rules):
    """A Function with ``forward(ctx, x)`` = 2x and the given rules as static methods."""

    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    members = {name: staticmethod(rule) for name, rule in {"forward": forward, **rules}.items()}
    return type(s.Function)("Made", (s.Function,), members)


@scenario
def backward_defined(s):
    s.differentiate("f", make_function(s, backward=lambda ctx, grad: grad * 2).apply, s.randn(2, requires_grad=True))


@scenario
def vjp_defined(s):
    s.differentiate("f", make_function(s, vjp=lambda ctx, grad: grad * 2).apply, s.randn(2, requires_grad=True))


@scenario(since="2.13")
def both_defined(s):
    function = make_function(s, backward=lambda ctx, grad: grad * 2, vjp=lambda ctx, grad: grad * 2)
    y = function.apply(s.randn(2, requires_grad=True))
    s.record("output", y)
    s.raises("backward", lambda: y.sum().backward())
    s.raises("user function", y.grad_fn._get_user_fn)


@scenario
def neither_defined(s):
    y = make_function(s).apply(s.randn(2, requires_grad=True))
    s.raises("backward", lambda: y.sum().backward())


@scenario
def backward_and_vjp_are_the_same_function(s):
    def rule(ctx, grad):
        return grad * 2

    y = make_function(s, backward=rule, vjp=rule).apply(s.randn(2, requires_grad=True))
    s.raises("backward", lambda: y.sum().backward())


@scenario
def backward_inherited_and_vjp_added(s):
    Base = make_function(s, backward=lambda ctx, grad: grad * 2)

    class Derived(Base):
        @staticmethod
        def vjp(ctx, grad):
            return grad * 3

    y = Derived.apply(s.randn(2, requires_grad=True))
    s.raises("backward", lambda: y.sum().backward())


@scenario
def rule_is_none(s):
    function = make_function(s)
    function.backward = None
    y = function.apply(s.randn(2, requires_grad=True))
    s.raises("backward", lambda: y.sum().backward())


@scenario
def backward_with_wrong_signature(s):
    y = make_function(s, backward=lambda ctx: None).apply(s.randn(2, requires_grad=True))
    s.raises("too few", lambda: y.sum().backward())
    y = make_function(s, backward=lambda ctx, a, b: None).apply(s.randn(2, requires_grad=True))
    s.raises("too many", lambda: y.sum().backward())


@scenario
def backward_of_a_subclass(s):
    Base = make_function(s, backward=lambda ctx, grad: grad * 2)

    class Derived(Base):
        @staticmethod
        def backward(ctx, grad):
            return super(Derived, Derived).backward(ctx, grad) * 5

    s.differentiate("derived", Derived.apply, s.randn(2, requires_grad=True))
    s.differentiate("base", Base.apply, s.randn(2, requires_grad=True))


@scenario
def forward_of_a_subclass(s):
    Base = make_function(s, backward=lambda ctx, grad: grad * 2)

    class Derived(Base):
        @staticmethod
        def forward(ctx, x):
            return Base.forward(ctx, x) + 1

    s.differentiate("derived", Derived.apply, s.randn(2, requires_grad=True))


@scenario
def rules_from_a_mixin(s):
    class Mixin:
        @staticmethod
        def backward(ctx, grad):
            return grad * 7

    class Mixed(Mixin, s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 7

    s.differentiate("mixin first", Mixed.apply, s.randn(2, requires_grad=True))


@scenario
def several_bases(s):
    One = make_function(s, backward=lambda ctx, grad: grad * 2)

    class Two(s.Function):
        extra = 1

    class Both(One, Two):
        pass

    s.differentiate("two Functions", Both.apply, s.randn(2, requires_grad=True))
    s.record("extra", Both.extra)


@scenario
def function_with_slots(s):
    class Slotted(s.Function):
        __slots__ = ("a",)

        @staticmethod
        def forward(ctx, x):
            ctx.a = 1
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.a

    s.differentiate("slots", Slotted.apply, s.randn(2, requires_grad=True))


@scenario
def function_with_a_metaclass(s):
    class Meta(type(s.Function)):
        def __call__(cls, *args):
            return "called"

        @property
        def answer(cls):
            return 42

    class WithMeta(s.Function, metaclass=Meta):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    s.record("class", WithMeta.answer, WithMeta())
    s.differentiate("metaclass", WithMeta.apply, s.randn(2, requires_grad=True))


@scenario
def function_made_with_init_subclass(s):
    class Base(s.Function):
        def __init_subclass__(cls):
            super().__init_subclass__()
            cls.scale = 3

    class Scaled(Base):
        @staticmethod
        def forward(ctx, x):
            return x * Scaled.scale

        @staticmethod
        def backward(ctx, grad):
            return grad * Scaled.scale

    s.differentiate("scaled", Scaled.apply, s.randn(2, requires_grad=True))


@scenario
def apply_overridden(s):
    class Overrides(s.Function):
        @classmethod
        def apply(cls, x, scale=2):
            s.record("apply", x, scale)
            return super().apply(x, scale)

        @staticmethod
        def forward(ctx, x, scale):
            ctx.scale = scale
            return x * scale

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.scale, None

    s.differentiate("override", Overrides.apply, s.randn(2, requires_grad=True))


# once_differentiable


@scenario
def once_differentiable_backward(s):
    @s.once_differentiable
    def backward(ctx, grad):
        s.record("grad mode", torch.is_grad_enabled())
        return grad * 2

    x = s.randn(2, requires_grad=True)
    function = make_function(s, backward=backward)
    function.apply(x).sum().backward()
    (grad,) = torch.autograd.grad(function.apply(x).pow(2).sum(), x, create_graph=True)
    s.record("gradient", grad)
    s.raises("twice", lambda: grad.sum().backward())


@scenario
def once_differentiable_without_a_graph_to_differentiate(s):
    function = make_function(s, backward=s.once_differentiable(lambda ctx, grad: grad * 2))
    x = s.randn(2, requires_grad=True)
    (grad,) = torch.autograd.grad(function.apply(x).sum(), x, create_graph=True)
    s.record("gradient", grad)


@scenario
def once_differentiable_with_several_results(s):
    class Two(s.Function):
        @staticmethod
        def forward(ctx, x, y, z):
            return x * y

        @staticmethod
        @s.once_differentiable
        def backward(ctx, grad):
            return grad * 2, grad * 3, None

    x, y = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
    grads = torch.autograd.grad(Two.apply(x, y, 1).pow(2).sum(), [x, y], create_graph=True)
    s.record("gradients", grads)
    s.raises("twice", lambda: (grads[0] * grads[1]).sum().backward())


@scenario
def once_differentiable_keeps_its_name(s):
    @s.once_differentiable
    def backward(ctx, grad):
        """Text."""

    s.record("function", backward.__name__, backward.__doc__, backward.__wrapped__)


@scenario
def once_differentiable_under_forward_style_with_setup_context(s):
    class Separate(s.Function):
        @staticmethod
        def forward(x):
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        @s.once_differentiable
        def backward(ctx, grad):
            return grad * 2

    x = s.randn(2, requires_grad=True)
    (grad,) = torch.autograd.grad(Separate.apply(x).exp().sum(), x, create_graph=True)
    s.raises("twice", torch.autograd.grad, grad.sum(), x)


# boxed_grads_call


def make_boxed(s, rule, boxed=True):
    class Boxed(s.Function):
        boxed_grads_call = boxed

        @staticmethod
        def forward(ctx, x):
            return x * 2, x * 3

        @staticmethod
        def backward(*args):
            return rule(*args)

    return Boxed


@scenario(since="2.13")
def boxed_gradients(s):
    def rule(ctx, grads):
        s.record("grads", type(grads), grads)
        a, b = grads
        grads.clear()
        return a * 2 + b * 3

    s.differentiate("boxed", make_boxed(s, rule).apply, s.randn(2, requires_grad=True))


@scenario(since="2.13")
def boxed_gradients_are_freed_during_backward(s):
    def rule(ctx, grads):
        ref = weakref.ref(grads[0])
        result = grads[0] * 2
        grads[0] = None
        s.record("alive", ref() is not None)
        return result

    a, b = make_boxed(s, rule).apply(s.randn(2, requires_grad=True))
    (a * 2 + b).sum().backward()


@scenario(since="2.13")
def boxed_gradients_undefined(s):
    def rule(ctx, grads):
        s.record("grads", grads)
        return grads[0]

    make_boxed(s, rule).apply(s.randn(2, requires_grad=True))[0].sum().backward()


@scenario(since="2.13")
def boxed_call_by_hand(s):
    def rule(ctx, *grads):
        s.record("grads", grads)
        return grads[0]

    a, _ = make_boxed(s, rule).apply(s.randn(2, requires_grad=True))
    grad = torch.ones(2, device=s.device)
    s.outcome("apply", a.grad_fn.apply, grad, grad)
    s.outcome("apply_boxed", a.grad_fn.apply_boxed, [grad, grad])


@scenario(since="2.13")
def boxed_flag_of_other_types(s):
    for flag in (False, 1, 0, None, "yes"):
        seen = []
        function = make_boxed(s, lambda ctx, *grads, seen=seen: seen.append(len(grads)), boxed=flag)
        outputs = s.outcome(f"{flag!r}", function.apply, s.randn(2, requires_grad=True))
        if outputs is not None:
            outputs[0].sum().backward()
        s.record("arguments", seen)


@scenario(since="2.13")
def boxed_flag_set_after_the_first_call(s):
    seen = []
    function = make_boxed(s, lambda ctx, *grads: seen.append([type(grad) for grad in grads]), boxed=False)
    x = s.randn(2, requires_grad=True)
    early = function.apply(x)
    early[0].sum().backward(retain_graph=True)
    function.boxed_grads_call = True
    early[0].sum().backward()
    function.apply(x)[0].sum().backward()
    s.record("seen", seen)


@scenario(since="2.13")
def boxed_with_hooks_and_once_differentiable(s):
    class Boxed(s.Function):
        boxed_grads_call = True

        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        @s.once_differentiable
        def backward(ctx, grads):
            s.record("grads", grads)
            return grads.pop() * 2

    x = s.randn(2, requires_grad=True)
    y = Boxed.apply(x)
    y.grad_fn.register_hook(lambda inputs, outputs: s.record("hook", inputs, outputs))
    y.sum().backward()
    s.record("input", x)


# jvp


@scenario
def jvp_missing(s):
    function = make_function(s, backward=lambda ctx, grad: grad)
    with torch.autograd.forward_ad.dual_level():
        x = torch.autograd.forward_ad.make_dual(s.randn(2), s.randn(2))
        s.raises("call", function.apply, x)


@scenario
def jvp_defined(s):
    def jvp(ctx, tangent):
        s.record("tangent", tangent, torch.is_grad_enabled())
        return tangent * 2

    with torch.autograd.forward_ad.dual_level():
        x = torch.autograd.forward_ad.make_dual(s.randn(2), s.randn(2))
        s.record("output", make_function(s, jvp=jvp).apply(x))


@scenario
def jvp_with_wrong_results(s):
    x, tangent = s.randn(2), s.randn(2)
    wrong = (
        lambda ctx, tangent: None,
        lambda ctx, tangent: 1,
        lambda ctx, tangent: (tangent, tangent),
        lambda ctx, tangent: (),
        lambda ctx, tangent: tangent[:1],
        lambda ctx, tangent: tangent.double(),
        lambda ctx: None,
    )
    for number, jvp in enumerate(wrong):
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, tangent)
            s.outcome(f"rule {number}", make_function(s, jvp=jvp).apply, dual)


@scenario
def jvp_is_not_run_without_tangents(s):
    function = make_function(s, jvp=lambda ctx, tangent: s.record("never"))
    s.record("output", function.apply(s.randn(2, requires_grad=True)))
    with torch.autograd.forward_ad.dual_level():
        s.record("output", function.apply(s.randn(2)))
