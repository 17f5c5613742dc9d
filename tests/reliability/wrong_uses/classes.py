# SPDX-License-Identifier: BSD-3-Clause
"""Function classes with odd attributes, and classes that are changed while a call of theirs runs."""

import gc

import torch

from . import ODD_VALUES, case, leaf, make_function, run

ATTRIBUTES = (
    "forward",
    "backward",
    "vjp",
    "jvp",
    "setup_context",
    "apply",
    "is_traceable",
    "generate_vmap_rule",
    "clear_saved_tensors_on_access",
    "boxed_grads_call",
    "_backward_cls",
    "_compiled_autograd_key",
    "__name__",
    "__module__",
    "__qualname__",
    "__bases__",
    "__dict__",
    "__init__",
    "__new__",
    "__getattribute__",
)


def changes(name, change):
    @case(f"{name}, before the call")
    def _(api):
        cls = make_function(api)
        change(cls)
        return run(cls, leaf())

    @case(f"{name}, after a call")
    def _(api):
        cls = make_function(api)
        run(cls, leaf())
        change(cls)
        return run(cls, leaf())

    @case(f"{name}, in forward")
    def _(api):
        cls = make_function(api, in_forward=lambda ctx, x: change(cls))
        return run(cls, leaf())

    @case(f"{name}, in backward")
    def _(api):
        cls = make_function(api, in_backward=lambda ctx, grad: change(cls))
        return run(cls, leaf()), run(cls, leaf())

    @case(f"{name}, between forward and backward")
    def _(api):
        cls = make_function(api)
        y = cls.apply(x := leaf())
        change(cls)
        y.sum().backward()
        return x.grad


def change_attribute(attribute, label, make_value):
    changes(f"{attribute} = {label}", lambda cls: setattr(cls, attribute, make_value()))


def delete_attribute(attribute):
    changes(f"del {attribute}", lambda cls: delattr(cls, attribute))


for attribute in ATTRIBUTES:
    for label in "None", "a number", "text", "a class", "a function", "an empty tuple", "an object that raises":
        change_attribute(attribute, label, ODD_VALUES[label])
    delete_attribute(attribute)

changes("the class is made another's subclass", lambda cls: setattr(cls, "__bases__", (torch.autograd.Function,)))
changes("_backward_cls of another class", lambda cls: setattr(cls, "_backward_cls", Other._backward_cls))
changes("_backward_cls is _FunctionBase", lambda cls: setattr(cls, "_backward_cls", torch._C._FunctionBase))
changes("_backward_cls without a base of its own", lambda cls: setattr(cls, "_backward_cls", type("B", (), {})))
changes("garbage is collected", lambda cls: gc.collect())


class Other(torch.autograd.Function):
    """A Function that has a class of its own for its nodes."""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, grad):
        return grad


@case("a metaclass that raises on every attribute")
def _(api):
    class Meta(type(api.Function)):
        def __getattribute__(cls, name):
            if name in ("forward", "_backward_cls"):
                raise ArithmeticError(name)
            return super().__getattribute__(name)

    class Odd(api.Function, metaclass=Meta):
        pass

    return run(Odd, leaf())


@case("a metaclass without __init__")
def _(api):
    class Meta(type(api.Function)):
        def __init__(cls, *args):
            pass

    class Odd(api.Function, metaclass=Meta):
        @staticmethod
        def forward(ctx, x):
            return x * 2

    return run(Odd, leaf())


@case("a class that is its own instance of nothing")
def _(api):
    return type(api.Function)("Odd", (api.Function,), {}).apply(leaf())


@case("a class that dies in its own forward")
def _(api):
    classes = []

    class Odd(api.Function):
        @staticmethod
        def forward(ctx, x):
            classes.clear()
            gc.collect()
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            gc.collect()
            return grad * 2

    classes.append(Odd)
    del Odd
    return run(classes[0], leaf())


@case("forward replaced in the middle of itself")
def _(api):
    class Odd(api.Function):
        @staticmethod
        def forward(ctx, x):
            Odd.forward = staticmethod(lambda ctx, x: x * 5)
            gc.collect()
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            Odd.backward = staticmethod(lambda ctx, grad: grad * 7)
            gc.collect()
            return grad * 2

    return run(Odd, leaf()), run(Odd, leaf())


@case("backward that drops the last reference to its output")
def _(api):
    outputs = []
    cls = make_function(api, in_backward=lambda ctx, grad: outputs.clear())
    outputs.append(cls.apply(x := leaf()))
    total = outputs[0].sum()
    total.backward()
    return x.grad
