# SPDX-License-Identifier: BSD-3-Clause
"""Objects created, copied, pickled and reached in ways that nobody should use."""

import contextlib
import copy
import gc
import pickle

import torch

from . import case, leaf, make_function
from .ctx_attributes import ATTRIBUTES, MOMENTS


def backward_class(api):
    return type(make_function(api).apply(leaf()).grad_fn)


MAKERS = {
    "object.__new__": object.__new__,
    "_FunctionBase.__new__": lambda cls: torch._C._FunctionBase.__new__(cls),
    "its own __new__": lambda cls: cls.__new__(cls),
    "a call": lambda cls: cls(),
    "a call with arguments": lambda cls: cls(1, two=3),
    "copyreg": lambda cls: __import__("copyreg").__newobj__(cls),
}

METHODS = ("name", "_sequence_nr", "maybe_clear_saved_tensors", "_get_compiled_autograd_symints")


def made_case(label, make):
    @case(f"grad_fn made by {label}")
    def _(api):
        return make(backward_class(api)).name()

    @case(f"grad_fn made by {label}, put on a tensor")
    def _(api):
        made = make(backward_class(api))
        return torch.autograd.graph.get_gradient_edge(leaf()), made.next_functions, len(gc.get_referents(made))

    for attribute in ATTRIBUTES:

        @case(f"{attribute} of a grad_fn made by {label}")
        def _(api, attribute=attribute):
            return getattr(make(backward_class(api)), attribute)

    for method in METHODS:

        @case(f"{method}() of a grad_fn made by {label}")
        def _(api, method=method):
            result = getattr(make(backward_class(api)), method)()
            return None if method == "_sequence_nr" else result

    @case(f"register hooks on a grad_fn made by {label}")
    def _(api):
        made = make(backward_class(api))
        return made.register_hook(print), made.register_prehook(print), made._register_hook_dict(leaf())

    @case(f"call a grad_fn made by {label}")
    def _(api):
        return make(backward_class(api))(torch.ones(2))

    @case(f"instance of the Function made by {label}")
    def _(api):
        return make(make_function(api)).saved_tensors

    @case(f"ctx of forward is one made by {label}")
    def _(api):
        return make_function(api).forward(make(backward_class(api)), leaf())


for label, make in MAKERS.items():
    made_case(label, make)

COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle 2": lambda value: pickle.dumps(value, 2),
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "reduce": lambda value: value.__reduce__(),
    "reduce 4": lambda value: len(value.__reduce_ex__(4)),
    "dir": lambda value: "saved_tensors" in dir(value),
    "hash": lambda value: hash(value) == hash(value),
    "eq": lambda value: (value == 3, value == value),  # noqa: PLR0124 (on purpose)
    "lt": lambda value: value < 3,
    "bool": bool,
    "len": len,
    "iter": iter,
    "str": lambda value: str(value)[:20],
    "format": lambda value: format(value, "d"),
    "weak reference": lambda value: __import__("weakref").ref(value)() is value,
    "vars": lambda value: dict(vars(value)),
    "referents": lambda value: sorted(type(item).__name__ for item in gc.get_referents(value)) and None,
    "is tracked": gc.is_tracked,
    "class assignment to object": lambda value: setattr(value, "__class__", object),
    "class assignment to another's": lambda value: setattr(
        value, "__class__", torch.autograd.function.BackwardCFunction
    ),
}


def copy_case(label, do, moment):
    @case(f"{moment}: {label}")
    def _(api):
        seen = []
        return MOMENTS[moment](api, lambda ctx: seen.append(do(ctx))), seen


for label, do in COPIES.items():
    for moment in MOMENTS:
        copy_case(label, do, moment)

    @case(f"{label} of apply")
    def _(api, do=do):
        return do(make_function(api).apply) and None

    @case(f"{label} of the Function class")
    def _(api, do=do):
        return do(make_function(api)) and None

    @case(f"{label} of the backward class")
    def _(api, do=do):
        return do(backward_class(api)) and None


@case("half-built objects are used from within the collector")
def _(api):
    names = []

    def look(phase, info):
        for found in gc.get_objects(0):
            if issubclass(type(found), torch._C._FunctionBase):
                names.append(found.name())
                len(gc.get_referents(found))

    def collect(ctx, x):
        gc.collect()

    gc.callbacks.append(look)
    try:
        threshold = gc.get_threshold()
        gc.set_threshold(1)
        y = make_function(api, in_forward=collect).apply(x := leaf())
        y.sum().backward()
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(look)
    return x.grad, set(names)


@case("ctx kept and used when the graph is gone")
def _(api):
    kept = []
    y = make_function(api, in_forward=lambda ctx, x: kept.append(ctx)).apply(leaf())
    y.sum().backward()
    del y
    gc.collect()
    (ctx,) = kept
    results = [ctx.next_functions, ctx.name(), ctx.needs_input_grad, len(ctx.metadata)]
    ctx.saved_tensors
    return results


@case("ctx of a forward that raised")
def _(api):
    kept = []

    def fail(ctx, x):
        kept.append(ctx)
        raise ArithmeticError("forward")

    with contextlib.suppress(ArithmeticError):
        make_function(api, in_forward=fail).apply(leaf())
    (ctx,) = kept
    return ctx.needs_input_grad, ctx.to_save, ctx.next_functions, ctx.saved_tensors


@case("ctx of one call used in another")
def _(api):
    kept = []
    cls = make_function(api, in_forward=lambda ctx, x: kept.append(ctx))
    cls.apply(leaf())

    class Other(api.Function):
        @staticmethod
        def forward(ctx, x):
            return cls.forward(kept[0], x)

        @staticmethod
        def backward(ctx, grad):
            return cls.backward(kept[0], grad), *kept[0].saved_tensors

    return Other.apply(leaf()).sum().backward()


@case("a finaliser that brings the node back")
def _(api):
    back = []

    class Finaliser:
        def __init__(self, ctx):
            self.ctx = ctx

        def __del__(self):
            back.append(self.ctx)

    y = make_function(api, in_forward=lambda ctx, x: setattr(ctx, "finaliser", Finaliser(ctx))).apply(leaf())
    del y
    gc.collect()
    return [ctx.name() for ctx in back], [ctx.saved_tensors for ctx in back], [ctx.next_functions for ctx in back]


@case("a node brought back runs")
def _(api):
    back = []

    class Finaliser:
        def __init__(self, ctx, y):
            self.ctx, self.y = ctx, y

        def __del__(self):
            back.append((self.ctx, self.y))

    x = leaf()
    y = make_function(api).apply(x)
    y.grad_fn.finaliser = Finaliser(y.grad_fn, y)
    del y
    gc.collect()
    for _, y in back:
        y.sum().backward()
    return x.grad
