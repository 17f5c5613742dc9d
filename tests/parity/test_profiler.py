# SPDX-License-Identifier: BSD-3-Clause
"""What the profiler records of a call and of its backward."""

import pytest
import torch
from harness import scenario
from harness.changed_views import changed_views
from harness.small_functions import make_doubler, make_identity, make_product, make_square
from torch.profiler import ProfilerActivity, profile


@pytest.fixture(scope="module", autouse=True)
def used_before():
    """The profiler used once: some releases of torch warn then."""
    with profile(activities=[ProfilerActivity.CPU]) as p:
        torch.ones(1)
    p.events()


def record_events(s, events):
    for event in sorted(events, key=lambda event: (event.time_range.start, -event.time_range.end)):
        s.record(
            "event",
            {
                "name": event.name,
                "shapes": event.input_shapes,
                "sequence_nr": s.sequence_nr(event.sequence_nr) if event.sequence_nr >= 0 else None,
                "parent": event.cpu_parent.name if event.cpu_parent else None,
                "is_async": event.is_async,
                "scope": event.scope,
                "concrete": event.concrete_inputs,
            },
        )


def profiled(s, body, **options):
    with profile(activities=[ProfilerActivity.CPU], **options) as p:
        body()
    record_events(s, p.events())


@scenario
def call_and_backward_with_shapes(s):
    x = s.randn(2, 3, requires_grad=True)

    def body():
        make_square(s.Function).apply(x).sum().backward()

    profiled(s, body, record_shapes=True)


@scenario
def call_without_shapes(s):
    x = s.randn(2, 3, requires_grad=True)
    profiled(s, lambda: make_square(s.Function).apply(x).sum().backward())


@scenario
def setup_context_style(s):
    x, y = s.randn(2, 3, requires_grad=True), s.randn(2, 3)
    profiled(s, lambda: make_product(s.Function).apply(x, y).sum().backward(), record_shapes=True)


@scenario
def arguments_of_any_kind(s):
    class Mixed(s.Function):
        @staticmethod
        def forward(ctx, *args):
            return args[0].clone()

        @staticmethod
        def backward(ctx, grad):
            return grad, *[None] * 7

    x = s.randn(2, requires_grad=True)
    arguments = x, 3, "text", None, [x, x], s.tensor(1.0), {"a": x}, 2.5
    profiled(s, lambda: Mixed.apply(*arguments).sum().backward(), record_shapes=True)


@scenario
def call_without_gradient(s):
    profiled(s, lambda: make_square(s.Function).apply(s.tensor([1.0])), record_shapes=True)

    def under_no_grad():
        with torch.no_grad():
            make_square(s.Function).apply(s.tensor([1.0]).requires_grad_())

    profiled(s, under_no_grad, record_shapes=True)


@scenario
def nested_calls(s):
    square = make_square(s.Function)

    class Outer(s.Function):
        @staticmethod
        def forward(ctx, x):
            return square.apply(x)

        @staticmethod
        def backward(ctx, grad):
            return square.apply(grad)

    x = s.randn(2, requires_grad=True)
    profiled(s, lambda: Outer.apply(x).sum().backward(), record_shapes=True)


@scenario
def views_that_were_changed(s):
    """Their histories are made before the call begins; the one that can't be made leaves no call."""
    square = make_square(s.Function)
    for kind, view in changed_views(s).items():
        for options in {}, {"record_shapes": True}:
            s.record("view", kind)
            profiled(s, lambda view=view: s.outcome("call", square.apply, view), **options)
    x = changed_views(s)["negative"]
    profiled(s, lambda: square.apply(x).sum().backward())


@scenario
def view_that_another_function_changed(s):
    Doubled = make_doubler(s.Function)
    base = s.randn(2, 2, requires_grad=True) * 2
    view = base[0]
    Doubled.apply(base)
    profiled(s, lambda: make_product(s.Function).apply(view, view).sum().backward(), record_shapes=True)


@scenario
def call_that_raises(s):
    class Fails(s.Function):
        @staticmethod
        def forward(ctx, x):
            raise KeyError("forward")

    x = s.randn(2, requires_grad=True)
    profiled(s, lambda: s.raises("call", Fails.apply, x), record_shapes=True)


@scenario
def backward_that_raises(s):
    class Fails(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise KeyError("backward")

    x = s.randn(2, requires_grad=True)
    profiled(s, lambda: s.raises("backward", lambda: Fails.apply(x).sum().backward()))


@scenario
def double_backward(s):
    x = s.randn(2, requires_grad=True)

    def body():
        (grad,) = torch.autograd.grad(make_square(s.Function).apply(x).sum(), x, create_graph=True)
        grad.sum().backward()

    profiled(s, body)


@scenario
def forward_mode(s):
    import torch.autograd.forward_ad as fwAD

    with fwAD.dual_level():
        x = fwAD.make_dual(s.randn(2), s.randn(2))
        profiled(s, lambda: make_product(s.Function).apply(x, x), record_shapes=True)


@scenario
def under_a_transform(s):
    product = make_product(s.Function)
    x = s.randn(2)
    profiled(s, lambda: torch.func.grad(lambda x: product.apply(x, x).sum())(x))


@scenario
def legacy_profiler(s):
    x = s.randn(2, requires_grad=True)
    with torch.autograd.profiler.profile(record_shapes=True, use_kineto=False) as p:
        make_square(s.Function).apply(x).sum().backward()
    record_events(s, p.function_events)


@scenario
def names_in_the_record_are_those_of_the_class(s):
    class Named(make_identity(s.Function)):
        pass

    Named.__name__ = "Renamed"
    x = s.randn(2, requires_grad=True)
    profiled(s, lambda: Named.apply(x).sum().backward())
    Named._backward_cls.__name__ = "RenamedBackward"
    profiled(s, lambda: Named.apply(x).sum().backward())


@scenario
def record_function_around_and_inside(s):
    class Inside(s.Function):
        @staticmethod
        def forward(ctx, x):
            with torch.profiler.record_function("inside forward"):
                return x * 2

        @staticmethod
        def backward(ctx, grad):
            with torch.profiler.record_function("inside backward"):
                return grad * 2

    x = s.randn(2, requires_grad=True)

    def body():
        with torch.profiler.record_function("around"):
            Inside.apply(x).sum().backward()

    profiled(s, body)
