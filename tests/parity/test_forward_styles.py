# SPDX-License-Identifier: BSD-3-Clause
"""forward(ctx, ...) and forward(...) with setup_context: arguments, defaults, keywords and their errors."""

import functools
import inspect

import torch
from harness import scenario


def make_combined(s):
    class Combined(s.Function):
        @staticmethod
        def forward(ctx, x, scale=2, *, shift=0):
            s.record("arguments", x, scale, shift, ctx.needs_input_grad)
            ctx.scale = scale
            return x * scale + shift

        @staticmethod
        def backward(ctx, grad):
            s.record("needs_input_grad", ctx.needs_input_grad)
            return (grad * ctx.scale,) + (None,) * (len(ctx.needs_input_grad) - 1)

    return Combined


def make_separate(s):
    class Separate(s.Function):
        @staticmethod
        def forward(x, scale=2, shift=0):
            s.record("arguments", x, scale, shift, torch.is_grad_enabled())
            return x * scale + shift

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("setup_context", inputs, output, ctx.needs_input_grad, torch.is_grad_enabled())
            ctx.save_for_backward(inputs[0], output)
            ctx.scale = inputs[1]

        @staticmethod
        def backward(ctx, grad):
            s.record("needs_input_grad", ctx.needs_input_grad)
            return (grad * ctx.scale,) + (None,) * (len(ctx.needs_input_grad) - 1)

    return Separate


MAKERS = (make_combined, make_separate)


@scenario
def positional_arguments(s):
    for make in MAKERS:
        s.differentiate(make.__name__, make(s).apply, s.randn(2, requires_grad=True), 3)


@scenario
def default_arguments(s):
    for make in MAKERS:
        s.differentiate(make.__name__, make(s).apply, s.randn(2, requires_grad=True))


@scenario(since="2.13")
def keyword_arguments_with_ctx(s):
    x = s.randn(2, requires_grad=True)
    s.outcome("scale", lambda: make_combined(s).apply(x, scale=3))
    s.outcome("shift", lambda: make_combined(s).apply(x, shift=1))
    s.outcome("a tensor", lambda: make_combined(s).apply(x, shift=x))
    s.outcome("every one", lambda: make_combined(s).apply(x=x))


@scenario(since="2.13")
def keyword_arguments_with_setup_context(s):
    x = s.randn(2, requires_grad=True)
    s.outcome("scale", lambda: make_separate(s).apply(x, scale=3))
    s.outcome("shift", lambda: make_separate(s).apply(x, shift=1))
    s.outcome("a tensor", lambda: make_separate(s).apply(x, shift=x))
    s.outcome("every one", lambda: make_separate(s).apply(shift=1, x=x))


@scenario(since="2.13")
def gradients_after_a_call_with_keywords(s):
    x = s.randn(2, requires_grad=True)
    for make in MAKERS:
        y = make(s).apply(x, scale=3)
        s.outcome(make.__name__, lambda y=y: torch.autograd.grad(y.sum(), x))


@scenario(since="2.13")
def wrong_arguments(s):
    x = s.randn(2, requires_grad=True)
    for make in MAKERS:
        function = make(s)
        s.raises("none", function.apply)
        s.raises("too many", function.apply, x, 1, 2, 3)
        s.raises("unknown keyword", lambda function=function: function.apply(x, unknown=1))
        s.raises("twice", lambda function=function: function.apply(x, x=x))
        s.raises("only keywords", lambda function=function: function.apply(scale=1))


@scenario(since="2.13")
def keyword_only_argument_with_setup_context(s):
    class KeywordOnly(s.Function):
        @staticmethod
        def forward(x, *, scale=2, shift):
            s.record("forward", x, scale, shift)
            return x * scale + shift

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("setup_context", inputs, output)

        @staticmethod
        def backward(ctx, grad):
            return grad

    x = s.randn(2, requires_grad=True)
    s.outcome("given", lambda: KeywordOnly.apply(x, scale=3, shift=1))
    s.outcome("default", lambda: KeywordOnly.apply(x, shift=1))
    s.outcome("missing", lambda: KeywordOnly.apply(x, scale=3))


@scenario
def positional_only_argument_with_setup_context(s):
    class PositionalOnly(s.Function):
        @staticmethod
        def forward(x, /, y=3):
            return x * y

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("inputs", inputs)

    x = s.randn(2, requires_grad=True)
    s.outcome("by position", PositionalOnly.apply, x)
    s.raises("by name", lambda: PositionalOnly.apply(x=x))


@scenario(since="2.13")
def variadic_forward_with_setup_context(s):
    class Variadic(s.Function):
        @staticmethod
        def forward(*inputs, **options):
            s.record("forward", inputs, options)
            return inputs[0] * 2

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("setup_context", inputs)

    x = s.randn(2, requires_grad=True)
    s.outcome("positional", Variadic.apply, x, 1, x)
    s.outcome("keywords", lambda: Variadic.apply(x, a=1, b=x))


@scenario(since="2.13")
def mixed_variadic_forward_with_setup_context(s):
    class Variadic(s.Function):
        @staticmethod
        def forward(x, scale=2, *rest, flag=True, **options):
            s.record("forward", x, scale, rest, flag, options)
            return x * scale

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("setup_context", inputs)

        @staticmethod
        def backward(ctx, grad):
            s.record("needs", ctx.needs_input_grad)
            return (grad,) + (None,) * (len(ctx.needs_input_grad) - 1)

    x = s.randn(2, requires_grad=True)
    for number, call in enumerate(
        (
            lambda: Variadic.apply(x),
            lambda: Variadic.apply(x, 3),
            lambda: Variadic.apply(x, 3, 4, 5),
            lambda: Variadic.apply(x, 3, 4, flag=False),
            lambda: Variadic.apply(x, scale=3, other=1),
            lambda: Variadic.apply(x, 3, scale=4),
        )
    ):
        y = s.outcome(f"call {number}", call)
        if y is not None:
            y.sum().backward()


@scenario(since="2.13")
def variadic_forward_with_ctx(s):
    class Variadic(s.Function):
        @staticmethod
        def forward(*args, **kwargs):
            s.record("forward", args[1:], kwargs)
            return args[1] * 2

        @staticmethod
        def backward(*args):
            s.record("backward", args[1:])
            return args[1]

    x = s.randn(2, requires_grad=True)
    s.outcome("call", lambda: Variadic.apply(x, a=1).sum().backward())


@scenario
def default_that_is_a_tensor(s):
    default = s.randn(2, requires_grad=True)

    class WithDefault(s.Function):
        @staticmethod
        def forward(x, y=default):
            return x * y

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, grad):
            x, y = ctx.saved_tensors
            return grad * y, grad * x

    x = s.randn(2, requires_grad=True)
    y = WithDefault.apply(x)
    s.record("output", y)
    y.sum().backward()
    s.record("gradients", x.grad, default.grad)


@scenario
def default_that_is_a_tensor_with_ctx(s):
    default = s.randn(2, requires_grad=True)

    class WithDefault(s.Function):
        @staticmethod
        def forward(ctx, x, y=default):
            return x * y

        @staticmethod
        def backward(ctx, grad):
            return grad

    y = WithDefault.apply(s.randn(2, requires_grad=True))
    s.record("output", y)
    y.sum().backward()
    s.record("default", default.grad)


@scenario
def mutable_default_is_shared(s):
    class Remembers(s.Function):
        @staticmethod
        def forward(x, seen=[]):  # noqa: B006 (what is tested)
            seen.append(len(seen))
            s.record("seen", seen)
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("inputs", inputs[1])

    x = s.randn(2, requires_grad=True)
    Remembers.apply(x)
    Remembers.apply(x)


@scenario
def defaults_changed_after_the_first_call(s):
    Separate = make_separate(s)
    x = s.randn(2, requires_grad=True)
    Separate.apply(x)
    Separate.forward.__defaults__ = (5, 6)
    Separate.apply(x)
    Separate.forward.__defaults__ = None
    s.raises("no defaults", Separate.apply, x)


@scenario
def keyword_defaults_changed_after_the_first_call(s):
    class KeywordOnly(s.Function):
        @staticmethod
        def forward(x, *, scale=2):
            s.record("scale", scale)
            return x * scale

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

    x = s.randn(2, requires_grad=True)
    s.outcome("first", KeywordOnly.apply, x)
    KeywordOnly.forward.__kwdefaults__ = {"scale": 7}
    s.outcome("changed", KeywordOnly.apply, x)
    KeywordOnly.forward.__kwdefaults__ = None
    s.outcome("removed", KeywordOnly.apply, x)


@scenario
def code_changed_after_the_first_call(s):
    class Separate(s.Function):
        @staticmethod
        def forward(x, scale=2):
            return x * scale

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("inputs", inputs)

    x = s.randn(2, requires_grad=True)
    Separate.apply(x)
    Separate.forward.__code__ = (lambda x, other, factor=1: x * factor).__code__
    s.outcome("changed", Separate.apply, x, 3)
    s.raises("old name", lambda: Separate.apply(x, scale=3))


@scenario(since="2.13")
def wrapped_forward(s):
    """inspect.signature follows __wrapped__, and binds the arguments."""

    def forward(x, scale=2):
        s.record("wrapped", x, scale)
        return x * scale

    @functools.wraps(forward)
    def wrapper(*args, **kwargs):
        s.record("wrapper", args, kwargs)
        return forward(*args, **kwargs)

    class Wrapped(s.Function):
        pass

    Wrapped.forward = staticmethod(wrapper)
    Wrapped.setup_context = staticmethod(lambda ctx, inputs, output: s.record("inputs", inputs))
    x = s.randn(2, requires_grad=True)
    s.outcome("default", Wrapped.apply, x)
    s.outcome("keyword", lambda: Wrapped.apply(x, scale=3))
    s.raises("too many", Wrapped.apply, x, 1, 2)


@scenario(since="2.13")
def forward_with_a_signature_of_its_own(s):
    def forward(*args):
        s.record("arguments", args)
        return args[0] * 2

    parameters = [
        inspect.Parameter("x", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        inspect.Parameter("y", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=7),
    ]
    forward.__signature__ = inspect.Signature(parameters)

    class Signed(s.Function):
        pass

    Signed.forward = staticmethod(forward)
    Signed.setup_context = staticmethod(lambda ctx, inputs, output: s.record("inputs", inputs))
    x = s.randn(2, requires_grad=True)
    s.outcome("default", Signed.apply, x)
    s.outcome("keyword", lambda: Signed.apply(y=1, x=x))


@scenario
def forward_that_is_a_partial(s):
    def forward(scale, x, y=1):
        s.record("arguments", scale, x, y)
        return x * scale

    class Partial(s.Function):
        pass

    Partial.forward = functools.partial(forward, 3)
    Partial.setup_context = staticmethod(lambda ctx, inputs, output: s.record("inputs", inputs))
    s.outcome("call", Partial.apply, s.randn(2, requires_grad=True))


@scenario
def forward_that_is_callable(s):
    class Scale:
        def __call__(self, x, scale=2):
            s.record("arguments", x, scale)
            return x * scale

    class Callable(s.Function):
        forward = Scale()

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("inputs", inputs)

    s.outcome("call", Callable.apply, s.randn(2, requires_grad=True))


@scenario
def forward_that_is_a_builtin(s):
    class Builtin(s.Function):
        forward = staticmethod(torch.mul)

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("inputs", inputs)

    x = s.randn(2, requires_grad=True)
    s.outcome("call", Builtin.apply, x, x)


@scenario
def forward_that_is_a_class_method(s):
    class ClassMethods(s.Function):
        factor = 3

        @classmethod
        def forward(cls, ctx, x):
            s.record("forward", cls)
            return x * cls.factor

        @classmethod
        def backward(cls, ctx, grad):
            s.record("backward", cls)
            return grad * cls.factor

    s.differentiate("class methods", ClassMethods.apply, s.randn(2, requires_grad=True))


@scenario
def forward_and_setup_context_that_are_class_methods(s):
    class ClassMethods(s.Function):
        @classmethod
        def forward(cls, x, scale=3):
            s.record("forward", cls)
            return x * scale

        @classmethod
        def setup_context(cls, ctx, inputs, output):
            s.record("setup_context", cls, inputs)

        @classmethod
        def backward(cls, ctx, grad):
            return grad * 3, None

    s.differentiate("class methods", ClassMethods.apply, s.randn(2, requires_grad=True))


@scenario
def forward_without_staticmethod(s):
    class Plain(s.Function):
        def forward(ctx, x):
            return x * 2

        def backward(ctx, grad):
            return grad * 2

    s.differentiate("plain functions", Plain.apply, s.randn(2, requires_grad=True))


@scenario
def forward_behind_a_descriptor(s):
    class Descriptor:
        def __get__(self, instance, owner):
            s.record("looked up", instance is None, owner)
            return lambda ctx, x: x * 2

    class Described(s.Function):
        forward = Descriptor()

        @staticmethod
        def backward(ctx, grad):
            return grad

    x = s.randn(2, requires_grad=True)
    s.record("output", Described.apply(x), Described.apply(x))


@scenario
def forward_missing(s):
    class Nothing(s.Function):
        pass

    s.raises("called", Nothing.apply, s.randn(2))
    s.raises("called on the base", s.Function.apply, s.randn(2))
    s.raises("without arguments", Nothing.apply)


@scenario
def forward_is_none(s):
    class Empty(s.Function):
        forward = None

    s.raises("called", Empty.apply, s.randn(2))


@scenario
def setup_context_without_forward(s):
    class OnlySetup(s.Function):
        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

    s.raises("called", OnlySetup.apply, s.randn(2))


@scenario
def setup_context_returns_something(s):
    class Returns(s.Function):
        @staticmethod
        def forward(x):
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output):
            return 1

    s.outcome("call", Returns.apply, s.randn(2, requires_grad=True))


@scenario
def setup_context_with_wrong_arguments(s):
    class Few(s.Function):
        @staticmethod
        def forward(x):
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs):
            pass

    s.raises("too few", Few.apply, s.randn(2, requires_grad=True))


@scenario
def setup_context_sees_raw_outputs(s):
    kept = []

    class Several(s.Function):
        @staticmethod
        def forward(x):
            kept.append((x * 2, 7, x > 0))
            return kept[0]

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("same", output is kept[0], output[0] is kept[0][0])
            ctx.mark_non_differentiable(output[2])
            ctx.save_for_backward(inputs[0], output[0])

        @staticmethod
        def backward(ctx, a, b, c):
            s.record("gradients", a, b, c, ctx.saved_tensors)
            return a * 2

    y, number, positive = Several.apply(s.randn(2, requires_grad=True))
    s.record("outputs", y, number, positive, y is kept[0][0])
    y.sum().backward()


@scenario
def setup_context_without_grad(s):
    Separate = make_separate(s)
    s.record("no requires_grad", Separate.apply(s.randn(2)))
    with torch.no_grad():
        s.record("no_grad", Separate.apply(s.randn(2, requires_grad=True)))


@scenario
def setup_context_is_given_a_tuple(s):
    x = s.randn(2, requires_grad=True)

    class Looks(s.Function):
        @staticmethod
        def forward(x, scale=2):
            return x * scale

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("type", type(inputs), inputs[0] is x)

    Looks.apply(x)


@scenario
def style_decided_by_a_base_class(s):
    class Base(s.Function):
        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("inherited", inputs)

    class Derived(Base):
        @staticmethod
        def forward(x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    s.differentiate("inherited setup_context", Derived.apply, s.randn(2, requires_grad=True))


@scenario
def setup_context_restored_to_the_default(s):
    Separate = make_separate(s)

    class Combined(Separate):
        setup_context = s.Function.setup_context

        @staticmethod
        def forward(ctx, x):
            s.record("ctx style", type(ctx).__name__)
            return x * 2

    s.outcome("call", Combined.apply, s.randn(2, requires_grad=True))


@scenario
def both_styles_mixed_up(s):
    class Mixed(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

    s.raises("one argument too few", Mixed.apply, s.randn(2, requires_grad=True))


@scenario
def grad_mode_inside(s):
    class Looks(s.Function):
        @staticmethod
        def forward(x):
            s.record("forward", torch.is_grad_enabled(), x, (x * 2).requires_grad)
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("setup_context", torch.is_grad_enabled(), inputs, output)

        @staticmethod
        def backward(ctx, grad):
            s.record("backward", torch.is_grad_enabled())
            return grad

    x = s.randn(2, requires_grad=True)
    Looks.apply(x).sum().backward()
    torch.autograd.grad(Looks.apply(x).sum(), x, create_graph=True)
    s.record("after", torch.is_grad_enabled())


@scenario
def grad_mode_restored_after_an_error(s):
    class Fails(s.Function):
        @staticmethod
        def forward(ctx, x):
            torch.set_grad_enabled(True)
            raise ValueError("in forward")

    s.raises("call", Fails.apply, s.randn(2, requires_grad=True))
    s.record("after", torch.is_grad_enabled())


@scenario
def call_through_a_bound_apply(s):
    apply = make_combined(s).apply
    x = s.randn(2, requires_grad=True)
    s.record("method", apply.__name__, callable(apply), apply.__self__)
    s.record("output", apply(x), apply(x, 3))


@scenario(since="2.13")
def call_with_an_unpacked_list(s):
    x = s.randn(2, requires_grad=True)
    for make in MAKERS:
        s.record("output", make(s).apply(*[x, 3]), make(s).apply(**{"x": x}))  # noqa: PIE804 (what is tested)


@scenario
def many_arguments(s):
    class Sum(s.Function):
        @staticmethod
        def forward(ctx, *inputs):
            return sum(inputs)

        @staticmethod
        def backward(ctx, grad):
            return tuple(grad * n for n in range(len(ctx.needs_input_grad)))

    for count in (1, 5, 6, 8, 9, 40):
        inputs = [s.randn(2, requires_grad=n % 2 == 0) for n in range(count)]
        y = Sum.apply(*inputs)
        y.sum().backward()
        s.record(f"{count} inputs", y, [x.grad for x in inputs])


@scenario
def reentrant_forward(s):
    class Inner(s.Function):
        @staticmethod
        def forward(ctx, x):
            s.record("inner", x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    class Outer(s.Function):
        @staticmethod
        def forward(ctx, x):
            with torch.enable_grad():
                inner = Inner.apply(x)
            s.record("with grad", inner)
            return Inner.apply(x) + inner.detach()

        @staticmethod
        def backward(ctx, grad):
            return Inner.apply(grad)

    s.differentiate("nested", Outer.apply, s.randn(2, requires_grad=True))


@scenario
def recursive_forward(s):
    class Recursive(s.Function):
        @staticmethod
        def forward(ctx, x, depth):
            ctx.depth = depth
            return x * 2 if depth == 0 else Recursive.apply(x, depth - 1) + 1

        @staticmethod
        def backward(ctx, grad):
            s.record("depth", ctx.depth)
            return grad, None

    s.differentiate("recursion", Recursive.apply, s.randn(2, requires_grad=True), 3)
