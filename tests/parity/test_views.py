# SPDX-License-Identifier: BSD-3-Clause
"""Functions whose outputs are views, of their inputs or of others, and in-place changes to them afterwards."""

import weakref

import torch
from harness import scenario


def viewing(s, view, backward=lambda ctx, *grads: grads[0], save=lambda ctx, x: None):
    class Views(s.Function):
        @staticmethod
        def forward(ctx, x):
            save(ctx, x)
            return view(x)

        @staticmethod
        def backward(ctx, *grads):
            s.record("gradients", grads)
            return backward(ctx, *grads)

    return Views


VIEWS = {
    "view_as": lambda x: x.view_as(x),
    "view": lambda x: x.view(4),
    "detach": lambda x: x.detach(),
    "alias": lambda x: x[:],
    "slice": lambda x: x[:1],
    "t": lambda x: x.t(),
    "expand": lambda x: x.expand(3, 2, 2),
    "data": lambda x: x.data,
    "as_strided": lambda x: x.as_strided((2,), (1,)),
    "view of a view": lambda x: x[0][1:],
    "narrow and unsqueeze": lambda x: x.narrow(0, 0, 1).unsqueeze(0),
}


@scenario
def views_of_a_leaf(s):
    for name, view in VIEWS.items():
        y = viewing(s, view).apply(s.randn(2, 2, requires_grad=True))
        s.record(name, y)


@scenario
def views_of_a_non_leaf(s):
    for name, view in VIEWS.items():
        a = s.randn(2, 2, requires_grad=True).clone()
        y = viewing(s, view).apply(a)
        s.record(name, y)
        s.record("base", y._base is a)


@scenario
def views_of_a_view(s):
    for name, view in VIEWS.items():
        base = s.randn(3, 2, 2, requires_grad=True).clone()
        a = base[0]
        y = viewing(s, view).apply(a)
        s.record(name, y)
        s.record("base", y._base is base)


@scenario
def views_without_grad(s):
    for name, view in VIEWS.items():
        s.record(name, viewing(s, view).apply(s.randn(2, 2)))
        with torch.no_grad():
            s.record(f"{name} under no_grad", viewing(s, view).apply(s.randn(2, 2, requires_grad=True)))


@scenario
def views_in_inference_mode(s):
    x = s.randn(2, 2, requires_grad=True)
    with torch.inference_mode():
        for name, view in VIEWS.items():
            s.record(name, viewing(s, view).apply(x))


@scenario
def gradient_through_a_view(s):
    s.differentiate("view_as", viewing(s, VIEWS["view_as"]).apply, s.randn(2, 2, requires_grad=True))


@scenario
def view_modified_in_place(s):
    for name, view in VIEWS.items():
        a = s.randn(2, 2, requires_grad=True).clone()
        y = viewing(s, view).apply(a)
        s.outcome(f"{name}: in place", lambda y=y: y.mul_(2))
        s.record("input", a)
        s.outcome("backward", lambda a=a: a.sum().backward())


@scenario
def view_of_a_leaf_modified_in_place(s):
    for name, view in VIEWS.items():
        y = viewing(s, view).apply(s.randn(2, 2, requires_grad=True))
        s.outcome(f"{name}: in place", lambda y=y: y.mul_(2))


@scenario
def view_modified_under_no_grad(s):
    for name, view in VIEWS.items():
        a = s.randn(2, 2, requires_grad=True).clone()
        y = viewing(s, view).apply(a)
        with torch.no_grad():
            s.outcome(f"{name}: in place", lambda y=y: y.mul_(2))
        s.outcome("grad_fn", lambda y=y: y.grad_fn)


@scenario
def view_made_under_no_grad_modified_with_grad(s):
    a = s.randn(2, 2, requires_grad=True).clone()
    with torch.no_grad():
        y = viewing(s, VIEWS["view_as"]).apply(a)
    s.outcome("in place", lambda: y.mul_(2))


@scenario
def view_made_in_inference_mode_modified(s):
    a = s.randn(2, 2)
    with torch.inference_mode():
        y = viewing(s, VIEWS["view_as"]).apply(a)
    s.outcome("in place", lambda: y.mul_(2))
    s.outcome("in place by a tensor with grad", lambda: y.mul_(s.randn(2, 2, requires_grad=True)))


@scenario
def input_modified_after_its_view_was_returned(s):
    a = s.randn(2, 2, requires_grad=True).clone()
    y = viewing(s, VIEWS["view_as"]).apply(a)
    a.mul_(2)
    s.record("input", a)
    s.outcome("output", lambda: y)
    s.outcome("grad_fn", lambda: y.grad_fn)
    s.outcome("backward", lambda: y.sum().backward())


@scenario
def view_of_the_view_modified(s):
    a = s.randn(2, 2, requires_grad=True).clone()
    y = viewing(s, VIEWS["view_as"]).apply(a)
    z = y[0]
    s.record("second view", z)
    s.outcome("in place", lambda: z.mul_(2))
    s.outcome("grad_fn", lambda: y.grad_fn)


@scenario
def two_views_returned(s):
    a = s.randn(2, 2, requires_grad=True).clone()
    y, z = viewing(s, lambda x: (x[0], x[1]), backward=lambda ctx, a, b: torch.stack([a, b])).apply(a)
    s.record("outputs", y, z)
    s.outcome("in place", lambda: y.mul_(2))
    s.outcome("backward", lambda: (y + z).sum().backward())


@scenario
def two_views_of_which_one_is_no_view(s):
    a = s.randn(2, 2, requires_grad=True).clone()
    y, z = viewing(s, lambda x: (x.view_as(x), x * 2)).apply(a)
    s.record("outputs", y, z)
    s.outcome("view in place", lambda: y.mul_(2))
    s.outcome("other in place", lambda: z.mul_(2))


@scenario
def view_and_an_object(s):
    a = s.randn(2, 2, requires_grad=True).clone()
    y, _ = viewing(s, lambda x: (x.view_as(x), 1)).apply(a)
    s.record("output", y)
    s.outcome("in place", lambda: y.mul_(2))


@scenario
def view_of_a_saved_input_modified(s):
    a = s.randn(2, 2, requires_grad=True).clone()
    y = viewing(s, lambda x: x * 2, save=lambda ctx, x: ctx.save_for_backward(x[0])).apply(a)
    a[1].zero_()
    s.outcome("saved", lambda: y.grad_fn.saved_tensors)


@scenario
def view_of_an_intermediate(s):
    y = viewing(s, lambda x: (x * 2)[0], backward=lambda ctx, grad: grad.expand(2, 2)).apply(
        s.randn(2, 2, requires_grad=True)
    )
    s.record("output", y)
    s.outcome("in place", lambda: y.mul_(2))
    s.outcome("backward", lambda: y.sum().backward())


@scenario
def view_of_a_tensor_from_outside(s):
    outside = s.randn(2, 2)
    y = viewing(s, lambda x: outside.view(4)).apply(s.randn(2, requires_grad=True))
    s.record("output", y)
    s.outcome("in place", lambda: y.mul_(2))


@scenario
def view_of_an_input_without_grad(s):
    class Second(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            return y.view_as(y)

        @staticmethod
        def backward(ctx, grad):
            return grad, None

    frozen = s.randn(2)
    y = Second.apply(s.randn(2, requires_grad=True), frozen)
    s.record("output", y, y._base is frozen)
    s.outcome("in place", lambda: y.mul_(2))
    s.record("frozen", frozen)


@scenario
def pure_view(s):
    def save(ctx, x):
        ctx._is_pure_view = True

    a = s.randn(2, 2, requires_grad=True).clone()
    y = viewing(s, VIEWS["view_as"], save=save).apply(a)
    s.record("output", y)
    s.outcome("in place", lambda: y.mul_(2))
    s.outcome("backward", lambda: a.sum().backward())


@scenario
def pure_view_with_several_outputs(s):
    def save(ctx, x):
        ctx._is_pure_view = True

    a = s.randn(2, 2, requires_grad=True).clone()
    s.outcome("call", viewing(s, lambda x: (x[0], x[1]), save=save).apply, a)


@scenario
def multi_output_view_as_input(s):
    base = s.randn(2, 2, requires_grad=True).clone()
    a, _ = base.unbind()
    y = viewing(s, lambda x: x.view_as(x)).apply(a)
    s.record("output", y)
    s.outcome("in place", lambda: y.mul_(2))


@scenario
def view_saved_for_backward(s):
    class Saves(s.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.view_as(x)
            ctx.save_for_backward(x, y)
            return y

        @staticmethod
        def backward(ctx, grad):
            s.record("saved", ctx.saved_tensors)
            return grad

    Saves.apply(s.randn(2, requires_grad=True).clone()).sum().backward()


@scenario
def set_and_resize_of_an_output(s):
    y = viewing(s, lambda x: x * 2).apply(s.randn(4, requires_grad=True))
    s.outcome("resize", y.resize_, 2)
    s.outcome("set", y.set_, s.randn(3))
    y.data = s.randn(2)
    s.outcome("backward", lambda: y.sum().backward())


@scenario
def conj_view_returned(s):
    z = s.randn(2, dtype=torch.complex64, requires_grad=True)
    s.record("conj", viewing(s, lambda z: z.conj()).apply(z))
    s.record("real", viewing(s, lambda z: torch.view_as_real(z)).apply(z))


@scenario
def view_kept_with_its_input_alive(s):
    a = s.randn(2, 2, requires_grad=True).clone()
    ref = weakref.ref(a)
    y = viewing(s, VIEWS["view"]).apply(a)
    del a
    s.alive("base", ref)
    s.record("output", y)
