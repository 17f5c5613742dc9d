# SPDX-License-Identifier: BSD-3-Clause
"""Calls of custom Functions through other parts of torch."""

from __future__ import annotations

import functools
from contextlib import nullcontext

import torch

import torch_ext

from .calls import identity_function
from .probe import SIZE, Probe, Row, against_stock

LAYERS = 8  # of a module that is compiled


def nested(base):
    class Copy(base):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad

    rows = [torch.ones(SIZE), torch.ones(2 * SIZE)]
    x = torch.nested.nested_tensor(rows, layout=torch.jagged, requires_grad=True)
    return Probe(lambda: Copy.apply(x), lambda: Copy.forward(None, x))


@functools.cache
def scale_operator():
    """An operator with a derivative; torch makes a Function for it."""

    @torch.library.custom_op("torch_ext_bench::scale", mutates_args=())
    def scale(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    scale.register_fake(torch.empty_like)
    scale.register_autograd(lambda ctx, grad: grad * 2)
    return scale


def custom_op(context):
    scale, x = scale_operator(), torch.ones(SIZE, requires_grad=True)
    return Probe(lambda: scale(x), context=context)


def layers():
    """A module of custom Functions, each of a class of its own."""
    functions = [identity_function(torch.autograd.Function) for _ in range(LAYERS)]

    def module(x):
        for function in functions:
            x = function.apply(x * 2)
        return x

    return module


def compiled(context):
    """A call of a compiled module; what runs its graph is torch itself, so no compiler is needed."""
    module, x = torch.compile(layers(), backend="eager", fullgraph=True), torch.ones(SIZE, requires_grad=True)
    return Probe(lambda: module(x), context=context)


def trace(context):
    """What torch.compile does to get the graph of a module."""
    module, x = layers(), torch.ones(SIZE, requires_grad=True)

    def call():
        torch.compiler.reset()
        return torch.compile(module, backend="eager", fullgraph=True)(x)

    return Probe(call, units=LAYERS, context=context)


def under_install(name, title, make, **options):
    """A row of stock Functions, without torch_ext.install() and with it."""
    return Row(name, title, lambda: make(nullcontext), lambda: make(torch_ext.installed), **options)


ROWS = (
    against_stock("nested", "overhead: a nested tensor, copied", nested),
    under_install("custom_op", "a call of a custom_op with register_autograd, under install()", custom_op),
    under_install("compiled", f"a call of a compiled module of {LAYERS} Functions, under install()", compiled),
    under_install(
        "trace",
        "tracing of that module by torch.compile, by Function, under install()",
        trace,
        is_timed=False,
    ),
)
