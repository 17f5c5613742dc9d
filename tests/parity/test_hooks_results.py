# SPDX-License-Identifier: BSD-3-Clause
"""What hooks may return in place of a gradient, and the error for anything else."""

import sys

import pytest
import torch
from harness import scenario
from harness.registering import accumulate_grad, empty_the_queue, hooks_of, products

import torch_ext

# What a hook returns for a gradient; what isn't like the gradient is rejected.
REPLACEMENTS = {
    "itself": lambda grad: grad,
    "None": lambda grad: None,
    "another": lambda grad: grad * 2,
    "a Parameter": lambda grad: torch.nn.Parameter(grad),
    "requiring grad": lambda grad: grad.clone().requires_grad_(),
    "in place": lambda grad: grad.mul_(2),
    "not contiguous": lambda grad: torch.stack([grad, grad], -1)[..., 0],
    "a size": lambda grad: grad[:1],
    "a dimension": lambda grad: grad[None],
    "double": lambda grad: grad.double(),
    "complex": lambda grad: grad.to(torch.complex64),
    "bool": lambda grad: grad.bool(),
    "on meta": lambda grad: grad.to("meta"),
    "sparse": lambda grad: grad.to_sparse(),
    "a number": lambda grad: 1.0,
    "a tuple": lambda grad: (grad,),
    "False": lambda grad: False,
    "a class": lambda grad: torch.Tensor,
}


class Triple(tuple):
    """A subclass of tuple."""


# The same for tuples of gradients.
TUPLES = {
    "itself": lambda grads: grads,
    "None": lambda grads: None,
    "a copy": lambda grads: (*grads,),
    "all None": lambda grads: (None,) * len(grads),
    "a subclass": lambda grads: Triple(grads),
    "a list": lambda grads: [*grads],
    "a tensor": lambda grads: grads[0],
    "a generator": lambda grads: (grad for grad in grads),
    "too few": lambda grads: grads[1:],
    "too many": lambda grads: (*grads, None),
    "none": lambda grads: (),
    **{
        f"of {name}": lambda grads, replace=replace: tuple(grad if grad is None else replace(grad) for grad in grads)
        for name, replace in REPLACEMENTS.items()
    },
}


def run(s, name, product, register):
    """Run backward through a product, with the hooks of ``register(left, right, output)``."""
    left, right = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
    output = product(left, right)
    register(left, right, output)
    s.outcome(name, output.backward, torch.ones_like(output))
    s.record(f"{name}: gradients", left.grad, right.grad)
    empty_the_queue()


@scenario
def tensor_hook_on_a_result(s):
    hooks = hooks_of(s)
    for node, product in products(s):
        for name, hook in REPLACEMENTS.items():
            run(s, f"{node}, {name}", product, lambda left, right, y: hooks.register_tensor_hook(y, hook))


@scenario
def tensor_hook_on_a_leaf(s):
    hooks = hooks_of(s)
    for name, hook in REPLACEMENTS.items():
        run(s, name, torch.mul, lambda left, right, y: hooks.register_tensor_hook(left, hook))


@scenario
def prehook(s):
    hooks = hooks_of(s)
    for node, product in products(s):
        for name, hook in TUPLES.items():
            run(s, f"{node}, {name}", product, lambda left, right, y: hooks.register_node_prehook(y.grad_fn, hook))


@scenario
def posthook(s):
    hooks = hooks_of(s)
    for node, product in products(s):
        for name, hook in TUPLES.items():
            register = lambda left, right, y: hooks.register_node_posthook(  # noqa: E731
                y.grad_fn, lambda grads, _: hook(grads)
            )
            run(s, f"{node}, {name}", product, register)


@scenario
def prehook_of_a_leaf(s):
    hooks = hooks_of(s)
    for name, hook in TUPLES.items():
        run(s, name, torch.mul, lambda left, right, y: hooks.register_node_prehook(accumulate_grad(left), hook))


@scenario
def post_accumulate_grad_hook(s):
    hooks = hooks_of(s)
    for name, hook in REPLACEMENTS.items():
        run(s, name, torch.mul, lambda left, right, y: hooks.register_post_accumulate_grad_hook(left, hook))


@scenario
def post_accumulate_grad_hooks_run_on_after_a_result(s):
    leaf = s.randn(2, requires_grad=True)
    hooks = hooks_of(s)
    hooks.register_post_accumulate_grad_hook(leaf, lambda leaf: torch.zeros_like(leaf))
    hooks.register_post_accumulate_grad_hook(leaf, lambda what: s.record("second got", what))
    s.raises("backward", leaf.sum().backward)
    s.record("leaf", leaf)


@scenario
def none_in_place_of_gradients(s):
    """A gradient that a hook made undefined stays so."""
    hooks = hooks_of(s)
    for name, product in products(s):

        def register(left, right, y):
            hooks.register_node_posthook(y.grad_fn, lambda grads, _: (None, grads[1]))
            hooks.register_node_posthook(y.grad_fn, lambda grads, _: s.record("next", grads))
            hooks.register_tensor_hook(left, lambda grad: s.record("left", grad))

        run(s, name, product, register)

        def register_another(left, right, y):
            hooks.register_node_posthook(y.grad_fn, lambda grads, _: (None, grads[1]))
            hooks.register_node_posthook(y.grad_fn, lambda grads, _: (grads[1], grads[1]))

        run(s, name, product, register_another)


@scenario
def undefined_gradients(s):
    hooks = hooks_of(s)
    for hook in (lambda grad: s.record("got", grad)), (lambda grad: s.tensor([1.0, 2.0])):
        first, second = s.randn(2, 2, requires_grad=True).unbind()
        hooks.register_tensor_hook(second, hook)
        hooks.register_node_prehook(first.grad_fn, lambda grads: s.record("prehook", grads))
        s.outcome("backward", first.sum().backward)
    first, second = s.randn(2, 2, requires_grad=True).unbind()
    hooks.register_node_prehook(first.grad_fn, lambda grads: (grads[0], grads[0]))
    s.raises("prehook", first.sum().backward)


@scenario
def a_tuple_subclass_is_no_tuple_to_the_next_hook(s):
    hooks = hooks_of(s)
    for name, hook in TUPLES.items():
        if name == "a tensor":  # torch crashes
            continue

        def register(left, right, y):
            hooks.register_node_prehook(y.grad_fn, lambda grads: Triple(grads))
            hooks.register_node_prehook(y.grad_fn, hook)

        run(s, name, torch.mul, register)


def test_a_tensor_after_a_tuple_subclass_raises_where_torch_crashes():
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    torch_ext.hooks.register_node_prehook(y.grad_fn, lambda grads: Triple(grads))
    torch_ext.hooks.register_node_prehook(y.grad_fn, lambda grads: grads[0])
    with pytest.raises(TypeError, match="expected tuple, but hook returned 'Tensor'"):
        y.sum().backward()


def test_what_only_says_that_it_is_a_tensor_raises_where_torch_crashes():
    class Impostor:
        __class__ = torch.Tensor

    y = torch.ones(2, requires_grad=True) * 2
    torch_ext.hooks.register_tensor_hook(y, lambda grad: Impostor())
    with pytest.raises(TypeError, match="expected Variable, but hook returned 'Impostor'"):
        y.sum().backward()


class Named:
    """A hook with a name of any type."""

    def __init__(self, name, result):
        self.__name__ = name
        self.result = result

    def __call__(self, *args):
        return self.result


class Nameless:
    """A hook whose name can't be read."""

    @property
    def __name__(self):
        raise ValueError("no name")

    def __call__(self, grad):
        return grad[:1]


@scenario
def names_in_messages(s):
    hooks = hooks_of(s)
    for name in "a name", b"bytes", "", "äöü", "\ud800", 3, None:
        wrong = Named(name, s.randn(3))
        run(s, repr(name), torch.mul, lambda left, right, y: hooks.register_tensor_hook(y, wrong))
        wrong = Named(name, ())
        run(s, repr(name), torch.mul, lambda left, right, y: hooks.register_node_prehook(y.grad_fn, wrong))


@scenario
def name_that_cannot_be_read(s):
    hooks = hooks_of(s)
    # From Python 3.13 on, the function that torch asks for the name reports the error that it ignores.
    report, sys.unraisablehook = sys.unraisablehook, lambda report: None
    try:
        run(s, "no name", torch.mul, lambda left, right, y: hooks.register_tensor_hook(y, Nameless()))
    finally:
        sys.unraisablehook = report


@scenario
def kinds_of_callables(s):
    """Bound methods, builtins, partial objects, classes with __call__: all get the same arguments."""
    import functools

    class Recorder:
        def __call__(self, *args, **kwargs):
            s.record("__call__", args, kwargs)

        def method(self, *args):
            s.record("method", args)

        @classmethod
        def of_the_class(cls, *args):
            s.record("classmethod", args)

        @staticmethod
        def static(*args):
            s.record("static", args)

    recorder, seen = Recorder(), []
    callables = (
        recorder,
        recorder.method,
        Recorder.of_the_class,
        Recorder.static,
        functools.partial(s.record, "partial"),
        seen.append,
    )
    leaf = s.randn(2, requires_grad=True)
    output = leaf * 2
    hooks = hooks_of(s)
    for hook in callables:
        hooks.register_tensor_hook(output, hook)
        hooks.register_node_prehook(output.grad_fn, hook)
        hooks.register_post_accumulate_grad_hook(leaf, hook)
    for hook in callables[:-1]:
        hooks.register_node_posthook(output.grad_fn, hook)
    output.sum().backward()
    s.record("appended", seen)
