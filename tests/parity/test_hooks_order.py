# SPDX-License-Identifier: BSD-3-Clause
"""The order in which hooks of every kind run, whoever registered them."""

import torch
from harness import scenario
from harness.registering import accumulate_grad, hooks_of, products


def register_all(s, hooks, name, leaf, output):
    """Register a hook of each kind, in another order than that in which they run."""
    node = output.grad_fn
    hooks.register_post_accumulate_grad_hook(leaf, lambda leaf: s.record(f"{name} accumulated", leaf.grad))
    hooks.register_node_posthook(node, lambda *grads: s.record(f"{name} posthook", grads))
    hooks.register_node_posthook(accumulate_grad(leaf), lambda *grads: s.record(f"{name} leaf posthook", grads))
    hooks.register_node_prehook(node, lambda grads: s.record(f"{name} prehook", grads))
    hooks.register_node_prehook(accumulate_grad(leaf), lambda grads: s.record(f"{name} leaf prehook", grads))
    hooks.register_tensor_hook(output, lambda grad: s.record(f"{name} tensor hook", grad))
    hooks.register_tensor_hook(leaf, lambda grad: s.record(f"{name} leaf hook", grad))


@scenario
def all_kinds(s):
    for name, product in products(s):
        leaf = s.randn(2, requires_grad=True)
        output = product(leaf, s.randn(2))
        hooks = hooks_of(s)
        register_all(s, hooks, f"{name} first", leaf, output)
        register_all(s, hooks, f"{name} second", leaf, output)
        output.sum().backward()


@scenario
def all_kinds_that_replace(s):
    for name, product in products(s):
        leaf = s.randn(2, requires_grad=True)
        output = product(leaf, s.randn(2))
        hooks = hooks_of(s)
        for factor in 2, 3:
            hooks.register_tensor_hook(output, lambda grad, factor=factor: grad * factor)
            hooks.register_node_prehook(output.grad_fn, lambda grads, factor=factor: (grads[0] + factor,))
            hooks.register_node_posthook(output.grad_fn, lambda grads, _, factor=factor: (grads[0] * factor, None))
            hooks.register_tensor_hook(leaf, lambda grad, factor=factor: grad + factor)
            register_all(s, hooks, f"{name} {factor}", leaf, output)
        output.sum().backward()
        s.record("leaf", leaf)


@scenario
def retains_grad_sees_what_tensor_hooks_made(s):
    for name, product in products(s):
        output = product(s.randn(2, requires_grad=True), s.randn(2))
        hooks = hooks_of(s)
        hooks.register_tensor_hook(output, lambda grad: grad * 2)
        hooks.register_node_prehook(output.grad_fn, lambda grads: (grads[0] * 7,))
        output.retain_grad()
        cycles = [
            hooks.register_tensor_hook(output, lambda grad, output=output: s.record("not there yet", output.grad))
        ]
        hooks.register_tensor_hook(output, lambda grad: grad * 5)
        cycles.append(
            hooks.register_node_prehook(
                output.grad_fn, lambda grads, output=output: s.record("there", output.grad, grads)
            )
        )
        output.sum().backward()
        s.record(name, output.grad)
        for handle in cycles:  # which stock leaks
            handle.remove()


@scenario
def outputs_of_one_node(s):
    rows = s.randn(3, 2, requires_grad=True).unbind()
    hooks = hooks_of(s)
    for number in 2, 0, 1, 0:
        hooks.register_tensor_hook(rows[number], lambda grad, number=number: s.record(f"row {number}", grad))
    hooks.register_node_prehook(rows[0].grad_fn, lambda grads: s.record("prehook", grads))
    (rows[0] + rows[2]).sum().backward()


@scenario
def a_chain_of_nodes(s):
    leaf = s.randn(2, requires_grad=True)
    first = leaf * 2
    second = first.exp()
    hooks = hooks_of(s)
    for name, tensor in ("first", first), ("second", second):
        hooks.register_node_posthook(tensor.grad_fn, lambda *grads, name=name: s.record(f"{name} posthook", grads))
        hooks.register_node_prehook(tensor.grad_fn, lambda grads, name=name: s.record(f"{name} prehook", grads))
        hooks.register_tensor_hook(tensor, lambda grad, name=name: s.record(f"{name} tensor hook", grad))
    second.sum().backward()


@scenario
def one_hook_many_times(s):
    leaf = s.randn(2, requires_grad=True)
    output = leaf * 2
    hooks = hooks_of(s)
    double = lambda grad: grad * 2  # noqa: E731
    handles = [hooks.register_tensor_hook(output, double) for _ in range(3)]
    s.record("distinct", len({handle.id for handle in handles}))
    handles[1].remove()
    output.sum().backward()
    s.record("leaf", leaf)


@scenario
def move_to_end_does_not_reorder(s):
    output = s.randn(2, requires_grad=True) * 2
    hooks = hooks_of(s)
    first = hooks.register_tensor_hook(output, lambda grad: s.record("first"))
    hooks.register_tensor_hook(output, lambda grad: s.record("second"))
    output._backward_hooks.move_to_end(first.id)
    output.sum().backward()


@scenario
def the_dicts_are_torchs_own(s):
    leaf = s.randn(2, requires_grad=True)
    output = leaf * 2
    hooks = hooks_of(s)

    def first(grad):
        s.record("first")

    def second(grad):
        s.record("second")

    for tensor in leaf, output:
        handles = [hooks.register_tensor_hook(tensor, hook) for hook in (first, second)]
        s.record("dict", type(tensor._backward_hooks), list(tensor._backward_hooks.values()))
        s.record("handles", [handle.id in tensor._backward_hooks for handle in handles])
        s.record("dict of a handle", handles[0].hooks_dict_ref() is tensor._backward_hooks)
    handle = hooks.register_post_accumulate_grad_hook(leaf, first)
    s.record("post", type(leaf._post_accumulate_grad_hooks), list(leaf._post_accumulate_grad_hooks.values()))
    s.record("handle", handle.hooks_dict_ref() is leaf._post_accumulate_grad_hooks)
    output.sum().backward()


@scenario
def dicts_replaced_by_hand(s):
    leaf = s.randn(2, requires_grad=True)
    hooks = hooks_of(s)
    hooks.register_tensor_hook(leaf, lambda grad: s.record("dropped"))
    leaf._backward_hooks = None
    hooks.register_tensor_hook(leaf, lambda grad: s.record("after None"))
    leaf.sum().backward()
    leaf._backward_hooks = {0: lambda grad: s.record("by hand")}
    leaf.sum().backward()


@scenario
def cpp_and_python_hooks_on_one_node(s):
    leaf = s.randn(2, requires_grad=True)
    output = leaf.clone()
    hooks = hooks_of(s)
    hooks.register_tensor_hook(output, lambda grad: s.record("python", grad))
    output.retain_grad()  # a C++ hook
    torch.autograd.backward(output.sum(), inputs=[output, leaf])
    s.record("tensors", output.grad, leaf.grad)
