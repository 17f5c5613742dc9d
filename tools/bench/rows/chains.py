# SPDX-License-Identifier: BSD-3-Clause
"""Chains: forward and backward through many nodes, by node."""

from __future__ import annotations

import torch

import torch_ext

from .calls import identity_function
from .probe import CHAIN, SIZE, Probe, Row, against_stock


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


ROWS = (
    against_stock("chain", f"forward+backward per node, {CHAIN} x identity", identity_chain),
    Row(
        "view_as",
        f"as chain, the reference being {CHAIN} x torch's own view_as node",
        view_as_chain,
        lambda: identity_chain(torch_ext.Function),
    ),
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
