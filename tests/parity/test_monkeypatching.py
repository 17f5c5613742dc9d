# SPDX-License-Identifier: BSD-3-Clause
"""Rules replaced on a class, or on a base of it, after its first use."""

import torch
from harness import scenario


def make_function(s):
    class Patched(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

        @staticmethod
        def jvp(ctx, tangent):
            return tangent * 2

    return Patched


def use(s, function, label):
    """Record what forward, backward and jvp of ``function`` return now."""
    x = s.randn(2, requires_grad=True)
    s.outcome(f"{label}: forward", function.apply, x)
    s.outcome(f"{label}: backward", lambda: torch.autograd.grad(function.apply(x).sum(), x))
    with torch.autograd.forward_ad.dual_level():
        s.outcome(f"{label}: jvp", lambda: function.apply(torch.autograd.forward_ad.make_dual(s.randn(2), s.randn(2))))


@scenario
def forward_replaced(s):
    function = make_function(s)
    use(s, function, "before")
    function.forward = staticmethod(lambda ctx, x: x * 5)
    use(s, function, "after")


@scenario
def backward_replaced(s):
    function = make_function(s)
    use(s, function, "before")
    function.backward = staticmethod(lambda ctx, grad: grad * 5)
    use(s, function, "after")


@scenario
def jvp_replaced(s):
    function = make_function(s)
    use(s, function, "before")
    function.jvp = staticmethod(lambda ctx, tangent: tangent * 5)
    use(s, function, "after")


@scenario
def rule_deleted(s):
    function = make_function(s)
    use(s, function, "before")
    del function.backward
    use(s, function, "without backward")
    del function.jvp
    use(s, function, "without jvp")
    del function.forward
    use(s, function, "without forward")


@scenario
def rule_deleted_uncovers_the_one_of_the_base(s):
    function = make_function(s)

    class Derived(function):
        @staticmethod
        def forward(ctx, x):
            return x * 7

        @staticmethod
        def backward(ctx, grad):
            return grad * 7

    use(s, Derived, "before")
    del Derived.forward
    del Derived.backward
    use(s, Derived, "after")


@scenario
def base_patched(s):
    function = make_function(s)

    class Derived(function):
        pass

    class Deeper(Derived):
        pass

    use(s, Deeper, "before")
    function.forward = staticmethod(lambda ctx, x: x * 3)
    use(s, Deeper, "forward of the base")
    function.backward = staticmethod(lambda ctx, grad: grad * 3)
    use(s, Deeper, "backward of the base")
    Derived.backward = staticmethod(lambda ctx, grad: grad * 4)
    use(s, Deeper, "backward of the one between")
    Deeper.forward = staticmethod(lambda ctx, x: x * 9)
    use(s, Deeper, "forward of its own")
    use(s, Derived, "the one between")
    use(s, function, "the base")


@scenario
def mixin_patched(s):
    class Mixin:
        @staticmethod
        def forward(ctx, x):
            return x * 2

    class Mixed(Mixin, s.Function):
        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    use(s, Mixed, "before")
    Mixin.forward = staticmethod(lambda ctx, x: x * 11)
    use(s, Mixed, "after")


@scenario
def bases_replaced(s):
    one, other = make_function(s), make_function(s)
    other.forward = staticmethod(lambda ctx, x: x * 13)

    class Derived(one):
        pass

    use(s, Derived, "before")
    Derived.__bases__ = (other,)
    use(s, Derived, "after")


@scenario
def setup_context_added(s):
    function = make_function(s)
    use(s, function, "before")
    function.setup_context = staticmethod(lambda ctx, inputs, output: s.record("setup_context", inputs))
    s.raises("forward still takes ctx", function.apply, s.randn(2))
    function.forward = staticmethod(lambda x, scale=3: x * scale)
    s.outcome("both", function.apply, s.randn(2, requires_grad=True))


@scenario
def setup_context_removed(s):
    class Separate(s.Function):
        @staticmethod
        def forward(*args):
            s.record("arguments", len(args))
            return args[-1] * 2

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("setup_context")

    x = s.randn(2, requires_grad=True)
    Separate.apply(x)
    del Separate.setup_context
    Separate.apply(x)


@scenario
def setup_context_replaced(s):
    class Separate(s.Function):
        @staticmethod
        def forward(x):
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("first")

    x = s.randn(2, requires_grad=True)
    Separate.apply(x)
    Separate.setup_context = staticmethod(lambda ctx, inputs, output: s.record("second"))
    Separate.apply(x)


@scenario
def setup_context_added_to_a_base(s):
    class Base(s.Function):
        pass

    class Derived(Base):
        @staticmethod
        def forward(*args):
            s.record("arguments", len(args))
            return args[-1] * 2

    x = s.randn(2, requires_grad=True)
    Derived.apply(x)
    Base.setup_context = staticmethod(lambda ctx, inputs, output: s.record("of the base"))
    Derived.apply(x)


@scenario(since="2.13")
def forward_of_setup_context_style_replaced_with_other_defaults(s):
    class Separate(s.Function):
        @staticmethod
        def forward(x, scale=2):
            s.record("scale", scale)
            return x * scale

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("inputs", inputs)

    x = s.randn(2, requires_grad=True)
    Separate.apply(x)
    Separate.forward = staticmethod(lambda x, factor=7, *, other=None: x * factor)
    s.outcome("default", Separate.apply, x)
    s.outcome("keyword", lambda: Separate.apply(x, factor=8))
    s.raises("old keyword", lambda: Separate.apply(x, scale=8))


@scenario
def backward_replaced_between_forward_and_backward(s):
    function = make_function(s)
    x = s.randn(2, requires_grad=True)
    y = function.apply(x)
    function.backward = staticmethod(lambda ctx, grad: grad * 100)
    s.record("gradient", torch.autograd.grad(y.sum(), x))


@scenario
def backward_replaced_during_backward(s):
    function = make_function(s)

    def backward(ctx, grad):
        function.backward = staticmethod(lambda ctx, grad: grad * 100)
        return grad

    function.backward = staticmethod(backward)
    x = s.randn(2, requires_grad=True)
    y = function.apply(function.apply(x))
    s.record("gradient", torch.autograd.grad(y.sum(), x))


@scenario
def forward_replaced_during_forward(s):
    function = make_function(s)

    def forward(ctx, x):
        function.forward = staticmethod(lambda ctx, x: x * 100)
        function.setup_context = staticmethod(lambda ctx, inputs, output: s.record("setup_context"))
        return x * 3

    function.forward = staticmethod(forward)
    s.outcome("first", function.apply, s.randn(2, requires_grad=True))
    s.outcome("second", function.apply, s.randn(2, requires_grad=True))


@scenario
def vjp_added(s):
    function = make_function(s)
    use(s, function, "before")
    function.vjp = staticmethod(lambda ctx, grad: grad * 5)
    use(s, function, "both")
    del function.backward
    use(s, function, "vjp alone")


@scenario
def apply_of_the_backward_class_replaced(s):
    function = make_function(s)
    use(s, function, "before")

    def apply(self, *grads):
        s.record("replaced apply", grads)
        return grads[0] * 21

    function._backward_cls.apply = apply
    use(s, function, "after")


@scenario
def apply_jvp_of_the_backward_class_replaced(s):
    function = make_function(s)
    use(s, function, "before")

    def apply_jvp(self, *tangents):
        s.record("replaced apply_jvp", tangents)
        return tangents[0] * 21

    function._backward_cls.apply_jvp = apply_jvp
    use(s, function, "after")


@scenario
def apply_set_on_ctx(s):
    class Sets(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.apply = lambda *grads: grads[0] * 17
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    x = s.randn(2, requires_grad=True)
    s.outcome("gradient", lambda: torch.autograd.grad(Sets.apply(x).sum(), x))


@scenario
def user_function_of_the_backward_class_replaced(s):
    function = make_function(s)
    use(s, function, "before")
    function._backward_cls._get_user_fn = lambda self: lambda ctx, grad: grad * 23
    use(s, function, "after")


@scenario
def attribute_added_to_the_backward_class(s):
    function = make_function(s)
    function._backward_cls.shared = 1
    y = function.apply(s.randn(2, requires_grad=True))
    s.record("before use", y.grad_fn.shared)
    function._backward_cls.later = 2
    s.record("after use", y.grad_fn.later)


@scenario
def method_of_function_ctx_replaced(s):
    function = make_function(s)

    def forward(ctx, x):
        ctx.save_for_backward(x)
        s.record("to_save", ctx.to_save)
        return x * 2

    function.forward = staticmethod(forward)
    x = s.randn(2, requires_grad=True)
    function.apply(x)
    original = s.FunctionCtx.save_for_backward
    s.FunctionCtx.save_for_backward = lambda self, *tensors: s.record("replaced", tensors)
    try:
        function.apply(x)
    finally:
        s.FunctionCtx.save_for_backward = original
    function.apply(x)


@scenario
def forward_wrapped_and_unwrapped(s):
    function = make_function(s)
    x = s.randn(2, requires_grad=True)
    original = function.forward
    for _ in range(3):

        def forward(ctx, x):
            s.record("wrapped")
            return original(ctx, x)

        function.forward = staticmethod(forward)
        function.apply(x)
        function.forward = staticmethod(original)
        function.apply(x)


@scenario
def class_attributes_changed(s):
    function = make_function(s)
    x = s.randn(2, requires_grad=True)
    function.apply(x)
    function.__name__ = "Renamed"
    function.__qualname__ = "Other.Renamed"
    function.extra = 1
    s.record("output", function.apply(x))


@scenario
def many_patches(s):
    function = make_function(s)
    x = s.randn(2, requires_grad=True)
    for factor in range(300):
        function.forward = staticmethod(lambda ctx, x, factor=factor: x * factor)
        y = function.apply(x)
    s.record("last", y)


@scenario
def forward_is_a_descriptor_that_replaces_itself(s):
    class Once:
        def __get__(self, instance, cls):
            number = self.number

            def forward(ctx, x):
                return x * number

            cls.forward = Once()  # releases the last reference to self
            cls.forward.number = number + 1 if hasattr(cls, "forward") and number < 5 else 1
            return forward

    class Changes(s.Function):
        @staticmethod
        def backward(ctx, grad):
            return grad

    first = Once()
    first.number = 1
    Changes.forward = first
    del first
    for call in range(8):
        s.outcome(f"call {call}", Changes.apply, s.randn(2, requires_grad=True))
