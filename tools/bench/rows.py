# SPDX-License-Identifier: BSD-3-Clause
"""What is measured: each row compares a probe on torch_ext with one on a reference.

A Function is written once over a base class and created for both bases, so nothing but the base
differs. To add a row, write a function that creates its probe, and put a ``Row`` into ``ROWS``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

import torch_ext

CHAIN = 50  # nodes in a chain
SIZE = 4  # elements of a tensor: few, to time the call and not arithmetic


DEPTH = 60  # Python frames above a training step that is called from deep within a program


@dataclass(frozen=True)
class Probe:
    """Something to time.

    Args:
        call: what is timed, with grad mode on.
        floor: the part of it that is not overhead, timed with grad mode off and subtracted.
        units: how many things one call does; the time is divided by it.
    """

    call: Callable[[], object]
    floor: Callable[[], object] | None = None
    units: int = 1


@dataclass(frozen=True)
class Row:
    """A comparison: ``reference`` and ``ours`` (what is measured) each create a fresh probe.

    A probe creates its tensors when it is created, on torch's default device.
    """

    name: str
    title: str
    reference: Callable[[], Probe]
    ours: Callable[[], Probe]
    is_step: bool = False  # of training: steps per second are shown as well


class NoContext:
    """Stands in for ctx in direct calls of forward."""

    def save_for_backward(self, *tensors):
        pass


def identity_function(base):
    class Identity(base):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, grad):
            return grad

    return Identity


def identity(base):
    function, x = identity_function(base), torch.ones(SIZE, requires_grad=True)
    return Probe(lambda: function.apply(x), lambda: function.forward(None, x))


def saved(base):
    class Multiply(base):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return x * y

        @staticmethod
        def backward(ctx, grad):
            x, y = ctx.saved_tensors
            return grad * y, grad * x

    ctx = NoContext()
    x, y = (torch.ones(SIZE, requires_grad=True) for _ in range(2))
    return Probe(lambda: Multiply.apply(x, y), lambda: Multiply.forward(ctx, x, y))


def many(base):
    class FirstAndLast(base):
        @staticmethod
        def forward(ctx, a, b, c, d, e, f, g, h, i, j, k, l, m):  # noqa: E741
            return a, m

        @staticmethod
        def backward(ctx, first, last):
            return (first, *[None] * 11, last)

    inputs = [torch.ones(SIZE, requires_grad=True) for _ in range(13)]
    return Probe(lambda: FirstAndLast.apply(*inputs), lambda: FirstAndLast.forward(None, *inputs))


def setup_context(base):
    class Scale(base):
        @staticmethod
        def forward(x, factor=2.0):
            return x * factor

        @staticmethod
        def setup_context(ctx, inputs, output):
            _, ctx.factor = inputs

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.factor, None

    x = torch.ones(SIZE, requires_grad=True)
    return Probe(lambda: Scale.apply(x), lambda: Scale.forward(x))


def chain(step):
    """Forward and backward through CHAIN nodes, each created by ``step``."""
    start, grad = torch.ones(SIZE, requires_grad=True), torch.ones(SIZE)

    def call():
        x = start
        for _ in range(CHAIN):
            x = step(x)
        return torch.autograd.grad(x, start, grad)

    return Probe(call, units=CHAIN)


def identity_chain(base):
    function = identity_function(base)
    return chain(lambda x: function.apply(x))  # noqa: PLW0108 (view_as_chain() has one too)


def view_as_chain():
    return chain(lambda x: x.view_as(x))


def hook_calls(*registers):
    """Backward through CHAIN nodes, less the same without hooks.

    Each of ``registers`` is called with the result of a node and a hook for it.
    """

    def hook(*grads):
        pass

    def backward(registers):
        start, grad = torch.ones(SIZE, requires_grad=True), torch.ones(SIZE)
        x = start
        for _ in range(CHAIN):
            x = x.view_as(x)
            for register in registers:
                register(x, hook)
        return lambda: torch.autograd.grad(x, start, grad, retain_graph=True)

    return Probe(backward(registers), backward(()), units=CHAIN * len(registers))


def against_stock(name, title, make, **options):
    return Row(
        name,
        title,
        lambda: make(torch.autograd.Function),
        lambda: make(torch_ext.Function),
        **options,
    )


# --- A small network ------------------------------------------------------------------------------


def mlp_step(base):
    """Forward, backward and the optimizer's step of 4 x (affine 32, ReLU), on a batch of 16."""

    class Affine(base):
        @staticmethod
        def forward(ctx, x, weight, bias):
            ctx.save_for_backward(x, weight)
            return torch.addmm(bias, x, weight)

        @staticmethod
        def backward(ctx, grad):
            x, weight = ctx.saved_tensors
            return grad @ weight.t(), x.t() @ grad, grad.sum(0)

    class ReLU(base):
        @staticmethod
        def forward(ctx, x):
            y = x.relu()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, grad):
            (y,) = ctx.saved_tensors
            return grad * (y > 0)

    torch.manual_seed(0)
    layers = [(torch.randn(32, 32) / 6, torch.zeros(32)) for _ in range(4)]
    parameters = [parameter.requires_grad_() for layer in layers for parameter in layer]
    optimizer, batch = torch.optim.SGD(parameters, lr=1e-3), torch.randn(16, 32)

    def step():
        optimizer.zero_grad()
        x = batch
        for weight, bias in layers:
            x = ReLU.apply(Affine.apply(x, weight, bias))
        loss = x.square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return Probe(step)


# --- Anomaly mode ---------------------------------------------------------------------------------


def make_blocks():
    """12 x (Linear 64, LayerNorm, GELU), and a batch of 32 for them."""
    torch.manual_seed(0)
    layers = [(nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU()) for _ in range(12)]
    return nn.Sequential(*(layer for block in layers for layer in block)), torch.randn(32, 64)


def at_depth(depth, call):
    """``call()``, with ``depth`` more Python frames on the stack.

    They are of two functions in turn, since tracebacks shorten the recursion of one.
    """
    return call() if depth == 0 else _one_deeper(depth - 1, call)


def _one_deeper(depth, call):
    return call() if depth == 0 else at_depth(depth - 1, call)


def training_step(mode=contextlib.nullcontext, depth=0):
    """Forward, backward and the optimizer's step, in the context ``mode()``."""
    model, batch = make_blocks()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step():
        with mode():
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()

    return Probe(lambda: at_depth(depth, step))


def under_anomaly_mode(name, title, set_detect_anomaly):
    """The rows of an anomaly mode, each against the plain step at the same depth."""

    def row(suffix, text, check_nan, depth):
        return Row(
            name + suffix,
            title + text,
            lambda: training_step(depth=depth),
            lambda: training_step(lambda: set_detect_anomaly(True, check_nan=check_nan), depth),
        )

    deep = f", {DEPTH} frames deep"
    return (
        row("", "", False, 0),
        row("_nan", ", NaN checks", True, 0),
        row("_deep", deep, False, DEPTH),
        row("_nan_deep", ", NaN checks" + deep, True, DEPTH),
    )


def checked_row(way, title):
    """A row of torch_ext's anomaly mode with NaN checks of another way, against the plain step."""
    return Row(
        f"anomaly_nan_{way}",
        f"training step in anomaly mode, NaN checks {title}",
        training_step,
        lambda: training_step(lambda: torch_ext.anomaly.set_detect_anomaly(True, check_nan=way)),
    )


ROWS = (
    against_stock("identity", "overhead: x, the input returned as is", identity),
    against_stock("saved", "overhead: x * y, two saved tensors", saved),
    against_stock("many", "overhead: 13 inputs, 2 outputs", many),
    against_stock("setup_context", "overhead: setup_context, a default argument", setup_context),
    against_stock("chain", f"forward+backward per node, {CHAIN} x identity", identity_chain),
    Row(
        "hook_call",
        "a hook's call on a tensor: backward with hooks less without",
        lambda: hook_calls(lambda x, hook: x.register_hook(hook)),
        lambda: hook_calls(torch_ext.hooks.register_tensor_hook),
    ),
    Row(
        "node_hook_call",
        "the same, a prehook and a posthook on each node",
        lambda: hook_calls(
            lambda x, hook: x.grad_fn.register_prehook(hook),
            lambda x, hook: x.grad_fn.register_hook(hook),
        ),
        lambda: hook_calls(
            lambda x, hook: torch_ext.hooks.register_node_prehook(x.grad_fn, hook),
            lambda x, hook: torch_ext.hooks.register_node_posthook(x.grad_fn, hook),
        ),
    ),
    Row(
        "view_as",
        f"as chain, the reference being {CHAIN} x torch's own view_as node",
        view_as_chain,
        lambda: identity_chain(torch_ext.Function),
    ),
    against_stock("mlp", "training step of a small MLP whose layers are Functions", mlp_step, is_step=True),
    *under_anomaly_mode(
        "anomaly",
        "training step in anomaly mode, the reference being the plain step",
        torch_ext.anomaly.set_detect_anomaly,
    ),
    Row(
        "noting",
        "training step while nodes note where they are made, the reference being the plain step",
        training_step,
        lambda: training_step(torch_ext.graph.noting),
    ),
    checked_row("forward", "in forward too"),
    checked_row("deferred", "deferred"),
    *under_anomaly_mode(
        "torch",
        "the same in torch's own anomaly mode",
        torch.autograd.set_detect_anomaly,
    ),
)
