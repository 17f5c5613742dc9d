# SPDX-License-Identifier: BSD-3-Clause
"""The four ways to register a hook, on the implementation that a scenario runs on."""

import itertools
from types import SimpleNamespace

import torch

from .small_functions import make_product

WAYS = (
    "register_tensor_hook",
    "register_node_prehook",
    "register_node_posthook",
    "register_post_accumulate_grad_hook",
)

TORCH = SimpleNamespace(
    register_tensor_hook=lambda tensor, fn: tensor.register_hook(fn),
    register_node_prehook=lambda node, fn: node.register_prehook(fn),
    register_node_posthook=lambda node, fn: node.register_hook(fn),
    register_post_accumulate_grad_hook=lambda tensor, fn: tensor.register_post_accumulate_grad_hook(fn),
)


def hooks_of(s):
    """torch's methods on stock; torch_ext.hooks; and, if torch_ext is installed, the two in turn."""
    import torch_ext

    if s.Function is torch_ext.Function:
        return torch_ext.hooks
    if not torch_ext.is_installed():
        return TORCH
    turns = itertools.cycle((TORCH, torch_ext.hooks))

    def in_turns(way):
        return lambda target, fn: getattr(next(turns), way)(target, fn)

    return SimpleNamespace(**{way: in_turns(way) for way in WAYS})


def products(s):
    """Name and function of each kind of node that multiplies two tensors: torch's own, and those of Functions."""
    yield "torch's own", torch.mul
    yield "under test", make_product(s.Function).apply
    yield "stock", make_product(torch.autograd.Function).apply


def accumulate_grad(leaf):
    """The node that accumulates into ``leaf.grad``."""
    return torch.autograd.graph.get_gradient_edge(leaf).node


def empty_the_queue():
    """Drop what a failed backward left in the engine's queue: the thread's next backward does so."""
    torch.zeros(1, requires_grad=True).sum().backward()
