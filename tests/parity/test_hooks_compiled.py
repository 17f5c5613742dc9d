# SPDX-License-Identifier: BSD-3-Clause
"""Hooks under compiled autograd and torch.compile.

Plain tests: what torch's compiler keeps differs from one run to the next, so transcripts can't be compared.
"""

import pytest
import torch
from harness.registering import TORCH
from harness.small_functions import make_product

import torch_ext

PRODUCTS = {
    "torch's own": torch.mul,
    "torch_ext": make_product(torch_ext.Function).apply,
    "stock": make_product(torch.autograd.Function).apply,
}


def traced(build, hooks):
    """The targets in the graphs that compiled autograd creates, and the gradients.

    ``build(hooks)`` registers hooks and returns a result to differentiate, and its leaves.
    """
    graphs = []

    def backend(graph, inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph.forward

    result, leaves = build(hooks)
    torch._dynamo.reset()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend=backend)):
        result.backward(torch.ones_like(result))
    torch._dynamo.reset()
    assert graphs
    return graphs, [leaf.grad.tolist() for leaf in leaves]


def compare(build):
    """Fail if a backward with torch_ext's hooks is compiled to something else than one with torch's."""
    theirs, expected = traced(build, TORCH)
    ours, grads = traced(build, torch_ext.hooks)
    assert ours == theirs
    assert grads == expected
    eager, leaves = build(torch_ext.hooks)
    eager.backward(torch.ones_like(eager))
    assert [leaf.grad.tolist() for leaf in leaves] == expected


@pytest.mark.parametrize("kind", PRODUCTS)
def test_hooks_of_every_kind_that_replace(kind):
    def build(hooks):
        left, right = (torch.full((2,), value, requires_grad=True) for value in (2.0, 3.0))
        output = PRODUCTS[kind](left, right)
        for factor in 2, 3:
            hooks.register_tensor_hook(output, lambda grad, factor=factor: grad * factor)
            hooks.register_tensor_hook(left, lambda grad, factor=factor: grad + factor)
            hooks.register_node_prehook(output.grad_fn, lambda grads, factor=factor: (grads[0] + factor,))
            hooks.register_node_posthook(
                output.grad_fn, lambda grads, _, factor=factor: tuple(grad * factor for grad in grads)
            )
        return output, [left, right]

    compare(build)


def test_post_accumulate_grad_hooks():
    def halve(leaf):
        leaf.grad.mul_(0.5)

    def build(hooks):
        leaf = torch.full((2,), 3.0, requires_grad=True)
        hooks.register_post_accumulate_grad_hook(leaf, halve)
        hooks.register_post_accumulate_grad_hook(leaf, halve)
        return leaf * leaf, [leaf]

    compare(build)


def test_a_hook_on_the_last_of_several_outputs():
    def build(hooks):
        leaf = torch.ones(3, 2, requires_grad=True)
        rows = (leaf * 2).unbind()
        hooks.register_tensor_hook(rows[2], lambda grad: grad * 5)
        return rows[0] + rows[2], [leaf]

    compare(build)


def test_a_removed_hook_is_not_compiled():
    def build(hooks):
        leaf = torch.ones(2, requires_grad=True)
        output = leaf.exp()
        hooks.register_tensor_hook(output, lambda grad: grad * 5).remove()
        hooks.register_node_prehook(output.grad_fn, lambda grads: (grads[0] * 5,)).remove()
        return output, [leaf]

    compare(build)


def test_registering_inside_a_compiled_function_breaks_no_graph():
    torch._dynamo.reset()

    @torch.compile(backend="eager", fullgraph=True)
    def function(x):
        y = x * 2
        torch_ext.hooks.register_tensor_hook(y, lambda grad: grad * 5)
        torch_ext.hooks.register_post_accumulate_grad_hook(x, halve)
        return y * 3

    def halve(leaf):
        leaf.grad.mul_(0.5)

    x = torch.ones(2, requires_grad=True)
    function(x).sum().backward()
    assert x.grad.tolist() == [15.0, 15.0]
