# SPDX-License-Identifier: BSD-3-Clause
"""Chains: forward and backward through many nodes, by node."""

from __future__ import annotations

from dataclasses import replace

import torch

import torch_ext

from .calls import identity_function
from .probe import CHAIN, SIZE, Probe, Row, against_stock


def chain(step, nodes=CHAIN):
    """Forward and backward through a chain of nodes, each created by ``step``, and its death."""
    start, grad = torch.ones(SIZE, requires_grad=True), torch.ones(SIZE)

    def call():
        x = start
        for _ in range(nodes):
            x = step(x)
        return torch.autograd.grad(x, start, grad)

    return Probe(call, units=nodes)


def chain_of(function, nodes=CHAIN):
    return chain(lambda x: function.apply(x), nodes)  # noqa: PLW0108 (view_as_chain() has one too)


def identity_chain(base, nodes=CHAIN):
    return chain_of(identity_function(base), nodes)


def view_as_chain():
    return chain(lambda x: x.view_as(x))


def double_backward(base):
    """As a chain, and backward through its backward, whose nodes are of Functions too."""

    class Linear(base):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, grad):
            return function.apply(grad)

    function, start = identity_function(base), torch.ones(SIZE, requires_grad=True)
    grad, grad_of_grad = torch.ones(SIZE, requires_grad=True), torch.ones(SIZE)

    def call():
        x = start
        for _ in range(CHAIN):
            x = Linear.apply(x)
        (first,) = torch.autograd.grad(x, start, grad, create_graph=True)
        return torch.autograd.grad(first, grad, grad_of_grad)

    return Probe(call, units=CHAIN)


def hooked_chain(base):
    def hook(grad):
        pass

    def step(x):
        y = function.apply(x)
        y.register_hook(hook)
        return y

    function = identity_function(base)
    return chain(step)


def saved_chain(base):
    """A chain whose nodes save a tensor, which hooks pack and unpack."""

    class Saving(base):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x

        @staticmethod
        def backward(ctx, grad):
            ctx.saved_tensors  # noqa: B018 (which unpacks)
            return grad

    def same(x):
        return x

    return replace(chain(Saving.apply), context=lambda: torch.autograd.graph.saved_tensors_hooks(same, same))


def unmaterialized_chain(base):
    """A chain of nodes with a second output that gets no gradient, which stays None."""

    class Pair(base):
        @staticmethod
        def forward(ctx, x):
            ctx.set_materialize_grads(False)
            return x, constant.clone()

        @staticmethod
        def backward(ctx, grad, nothing):
            assert nothing is None
            return grad

    constant = torch.ones(SIZE)
    return chain(lambda x: Pair.apply(x)[0])


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


ROWS = (
    against_stock("chain", f"forward+backward per node, {CHAIN} x identity", identity_chain),
    Row(
        "view_as",
        f"as chain, the reference being {CHAIN} x torch's own view_as node",
        view_as_chain,
        lambda: identity_chain(torch_ext.Function),
    ),
    against_stock("double_backward", "as chain, and backward through its backward", double_backward),
    against_stock("tensor_hook", "as chain, with a hook on each tensor", hooked_chain),
    against_stock("saved_hooks", "as chain, with a saved tensor that hooks pack and unpack", saved_chain),
    against_stock("no_materialize", "as chain, with a second output whose gradient stays None", unmaterialized_chain),
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
)
