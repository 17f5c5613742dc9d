# SPDX-License-Identifier: BSD-3-Clause
"""Objects that isinstance() takes for tensors, but that are none. Stock torch reads their memory as a tensor's.

What it is (a mock, a weak proxy, a class that says so) x where it comes (argument, output, saved, marked, gradient,
tangent, result of a hook): each is a TypeError that names the type, and the next call is right.
"""

import contextlib
import unittest.mock
import weakref

import pytest
import torch
from torch.autograd import forward_ad

import torch_ext
from torch_ext import hooks, tracer


class Claims:
    """Claims to be a tensor."""

    @property
    def __class__(self):
        return torch.Tensor


TENSOR = torch.ones(2)
PRETENDERS = {
    "Mock": lambda: unittest.mock.Mock(spec=torch.Tensor),
    "MagicMock": lambda: unittest.mock.MagicMock(spec=torch.Tensor),
    "ProxyType": lambda: weakref.proxy(TENSOR),
    "Claims": Claims,
}
PLACES = {}


def place(function):
    PLACES[function.__name__] = function
    return function


def make_function(base, in_forward=lambda ctx, x: x * 2, in_backward=lambda ctx, grad: grad * 2, **others):
    methods = {"forward": in_forward, "backward": in_backward, **others}
    return type("Double", (base,), {name: staticmethod(method) for name, method in methods.items()})


def leaf():
    return torch.ones(2, requires_grad=True)


def then(first, second):
    """A forward that does ``first(ctx)`` and goes on."""
    return lambda ctx, x: (first(ctx), second(x))[1]


@place
def argument(base, value):
    make_function(base, lambda ctx, x, other: x).apply(leaf(), value)


@place
def only_argument_without_grad_mode(base, value):
    with torch.no_grad():
        make_function(base).apply(value)


@place
def argument_of_a_call_with_setup_context(base, value):
    make_function(base, lambda x, y: x, setup_context=lambda ctx, inputs, output: None).apply(leaf(), value)


@place
def argument_while_the_profiler_records(base, value):
    with torch.profiler.profile(record_shapes=True):
        make_function(base, lambda ctx, x, other: x).apply(leaf(), value)


@place
def argument_under_a_transform(base, value):
    function = make_function(base, lambda x, y: x, setup_context=lambda ctx, inputs, output: None)
    torch.func.grad(lambda x: function.apply(x, value).sum())(torch.ones(2))


@place
def argument_while_tracing(base, value):
    torch.jit.trace(lambda x: make_function(base, lambda ctx, x, y: x * 1).apply(x, value), torch.ones(2))


@place
def output(base, value):
    make_function(base, lambda ctx, x: value).apply(leaf())


@place
def one_of_the_outputs(base, value):
    make_function(base, lambda ctx, x: (x * 2, value)).apply(leaf())


@place
def saved(base, value):
    make_function(base, then(lambda ctx: ctx.save_for_backward(value), lambda x: x * 2)).apply(leaf())


@place
def saved_by_setup_context(base, value):
    function = make_function(
        base, lambda x: x * 2, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(value)
    )
    function.apply(leaf())


@place
def dirty(base, value):
    make_function(base, then(lambda ctx: ctx.mark_dirty(value), lambda x: x * 2)).apply(leaf())


@place
def non_differentiable(base, value):
    make_function(base, then(lambda ctx: ctx.mark_non_differentiable(value), lambda x: x * 2)).apply(leaf())


@place
def gradient(base, value):
    make_function(base, in_backward=lambda ctx, grad: value).apply(leaf()).sum().backward()


@place
def tangent(base, value):
    with forward_ad.dual_level():
        make_function(base, jvp=lambda ctx, tangent: value).apply(forward_ad.make_dual(torch.ones(2), torch.ones(2)))


@place
def result_of_a_tensor_hook(base, value):
    y = make_function(base).apply(leaf())
    hooks.register_tensor_hook(y, lambda grad: value)
    y.sum().backward()


@place
def result_of_a_node_prehook(base, value):
    y = make_function(base).apply(leaf())
    hooks.register_node_prehook(y.grad_fn, lambda grads: (value,))
    y.sum().backward()


@place
def result_of_a_node_posthook(base, value):
    y = make_function(base).apply(leaf())
    hooks.register_node_posthook(y.grad_fn, lambda inputs, outputs: (value,))
    y.sum().backward()


@place
def tensor_of_register_hook_dict(base, value):
    make_function(base).apply(leaf()).grad_fn._register_hook_dict(value)


@place
def traced_value(base, value):
    torch.jit.trace(lambda x: (tracer.get_value_trace(value), x)[1], torch.ones(2))


@contextlib.contextmanager
def using(how):
    """The base class to use."""
    if how == "ours":
        yield torch_ext.Function
    else:
        with torch_ext.installed():
            yield torch.autograd.Function


@pytest.mark.parametrize("pretender", PRETENDERS)
@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("how", ["ours", "installed"])
def test_pretender(pretender, where, how):
    with using(how) as base:
        value = PRETENDERS[pretender]()
        with pytest.raises(TypeError, match=rf"(got|returned) '?[\w.]*{pretender}"):
            PLACES[where](base, value)
        x = leaf()
        make_function(base).apply(x).sum().backward()
        assert torch.equal(x.grad, torch.full_like(x, 2))


@pytest.mark.parametrize("how", ["ours", "installed"])
def test_object_whose_class_cannot_be_asked_for(how):
    class Raises:
        @property
        def __class__(self):
            raise ArithmeticError("asked for its class")

    with using(how) as base:
        for where in argument, output, gradient:
            with pytest.raises(ArithmeticError, match="asked for its class"):
                where(base, Raises())
