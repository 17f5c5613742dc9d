# SPDX-License-Identifier: BSD-3-Clause
"""Hooks added and removed, before backward and by hooks that run."""

import pickle

import pytest
import torch
from harness import scenario
from harness.registering import accumulate_grad, hooks_of, products

import torch_ext


def ways(s):
    """For each kind of hook and of node: a name, a function that registers, and one that runs backward."""
    hooks = hooks_of(s)
    for kind, product in products(s):
        leaf = s.randn(2, requires_grad=True)
        output = product(leaf, s.randn(2))
        node = output.grad_fn

        def backward(output=output):
            output.backward(torch.ones_like(output), retain_graph=True)

        for name, register, target in (
            ("tensor hook", hooks.register_tensor_hook, output),
            ("leaf hook", hooks.register_tensor_hook, leaf),
            ("prehook", hooks.register_node_prehook, node),
            ("posthook", hooks.register_node_posthook, node),
            ("leaf prehook", hooks.register_node_prehook, accumulate_grad(leaf)),
            ("leaf posthook", hooks.register_node_posthook, accumulate_grad(leaf)),
            ("post accumulate", hooks.register_post_accumulate_grad_hook, leaf),
        ):
            yield f"{kind}, {name}", lambda fn, register=register, target=target: register(target, fn), backward


@scenario
def removal(s):
    for name, register, backward in ways(s):
        handles = [register(lambda *grads, number=number: s.record(f"hook {number}")) for number in range(3)]
        handles[1].remove()
        handles[1].remove()
        s.record(name, backward())
        for handle in handles:
            handle.remove()
        s.record(name, backward())


@scenario
def removal_by_itself(s):
    for name, register, backward in ways(s):
        handles = [register(lambda *grads: (s.record("once"), handles[0].remove())[0])]
        s.record(name, backward(), backward())


@scenario
def removal_of_the_last_reference_to_a_running_hook(s):
    class Hook:
        def __call__(self, *grads):
            handles.pop().remove()
            s.record("runs on", self.said)

        said = "still alive"

        def __del__(self):
            s.record("deleted")

    for name, register, backward in ways(s):
        handles = []
        handles.append(register(Hook()))
        s.record(name, backward(), backward())


@scenario
def removal_of_an_earlier_and_of_a_later_hook(s):
    for name, register, backward in ways(s):
        handles = []

        def remove_both(*grads, handles=handles):
            s.record("second")
            handles[0].remove()
            handles[2].remove()

        handles.append(register(lambda *grads: s.record("first")))
        handles.append(register(remove_both))
        handles.append(register(lambda *grads: s.record("third")))
        s.record(name, backward(), backward())
        handles[1].remove()


@scenario
def adding_from_inside(s):
    for name, register, backward in ways(s):
        handles = []

        def add(*grads, handles=handles, register=register):
            s.record("adds")
            if len(handles) < 3:
                number = len(handles)
                handles.append(register(lambda *grads: s.record(f"added as {number}")))

        handles.append(register(add))
        s.record(name, backward(), backward(), backward())
        for handle in handles:
            handle.remove()


@scenario
def adding_a_later_kind_from_inside(s):
    """A hook may register the node's first hook of a kind that runs later in the same backward."""
    for name, product in products(s):
        hooks = hooks_of(s)
        leaf = s.randn(2, requires_grad=True)
        output = product(leaf, s.randn(2))
        node = output.grad_fn

        def on_tensor(grad, hooks=hooks, node=node):
            s.record("tensor hook")
            hooks.register_node_prehook(node, before)

        def before(grads, hooks=hooks, node=node):
            s.record("prehook")
            hooks.register_node_posthook(node, after)

        def after(*grads, hooks=hooks, leaf=leaf):
            s.record("posthook", grads)
            hooks.register_tensor_hook(leaf, on_leaf)

        def on_leaf(grad, hooks=hooks, leaf=leaf):
            s.record("leaf hook")
            hooks.register_post_accumulate_grad_hook(leaf, lambda leaf: s.record("accumulated", leaf.grad))

        hooks.register_tensor_hook(output, on_tensor)
        s.record(name, output.sum().backward())


@scenario
def clearing_the_dict_from_inside(s):
    hooks = hooks_of(s)
    output = s.randn(2, requires_grad=True) * 2
    hooks.register_tensor_hook(output, lambda grad: output._backward_hooks.clear())
    hooks.register_tensor_hook(output, lambda grad: s.record("was there when it began"))
    output.sum().backward(retain_graph=True)
    output.sum().backward()


@scenario
def dropping_the_dict_from_inside(s):
    hooks = hooks_of(s)
    leaf = s.randn(2, requires_grad=True)

    def drop(grad):
        s.record("drops")

    hooks.register_tensor_hook(leaf, drop)
    leaf.sum().backward()
    leaf._backward_hooks = None
    leaf.sum().backward()
    s.record("leaf", leaf)


@scenario
def handle_as_a_context(s):
    for name, register, backward in ways(s):
        with register(lambda *grads: s.record("inside")) as handle:
            s.record("handle", type(handle), handle.id in handle.hooks_dict_ref())
            backward()
        s.record(name, backward())


@scenario
def handle_that_outlives_its_target(s):
    hooks = hooks_of(s)
    output = s.randn(2, requires_grad=True) * 2
    handles = [
        hooks.register_tensor_hook(output, print),
        hooks.register_node_prehook(output.grad_fn, print),
        hooks.register_node_posthook(output.grad_fn, print),
        hooks.register_post_accumulate_grad_hook(s.randn(2, requires_grad=True), print),
    ]
    del output
    for handle in handles:
        s.record("dict", handle.hooks_dict_ref())
        s.outcome("remove", handle.remove)


@scenario
def handle_pickled(s):
    hooks = hooks_of(s)
    leaf = s.randn(2, requires_grad=True)
    handle = hooks.register_tensor_hook(leaf, print)
    copy = pickle.loads(pickle.dumps(handle))
    s.record("copy", copy.id == handle.id, copy.hooks_dict_ref())


@scenario
def registering_after_backward(s):
    for name, product in products(s):
        hooks = hooks_of(s)
        output = product(s.randn(2, requires_grad=True), s.randn(2))
        output.sum().backward()
        hooks.register_node_prehook(output.grad_fn, lambda grads: s.record("prehook"))
        hooks.register_node_posthook(output.grad_fn, lambda *grads: s.record("posthook"))
        hooks.register_tensor_hook(output, lambda grad: s.record("tensor hook"))
        s.outcome(name, output.sum().backward)


def test_a_hook_may_register_one_on_another_output_where_torch_loses_hooks():
    """torch's engine reads memory that registering has freed."""
    ran = []
    rows = (torch.ones(9, 2, requires_grad=True) * 2).unbind()

    def register_the_rest(grad):
        for number, row in enumerate(rows[2:], 2):
            torch_ext.hooks.register_tensor_hook(row, lambda grad, number=number: ran.append(number))

    handle = torch_ext.hooks.register_tensor_hook(rows[0], register_the_rest)
    torch_ext.hooks.register_tensor_hook(rows[1], lambda grad: ran.append(1))
    total = sum(row.sum() for row in rows)
    total.backward(retain_graph=True)
    assert ran == [1]
    handle.remove()
    total.backward()
    assert ran == [1, *range(1, 9)]


@pytest.mark.parametrize("attach", [torch.Tensor.register_hook, torch_ext.hooks.register_tensor_hook])
def test_the_same_on_a_node_of_torch_ext(attach):
    class Split(torch_ext.Function):
        @staticmethod
        def forward(ctx, x):
            return tuple(row.clone() for row in x)

        @staticmethod
        def backward(ctx, *grads):
            return torch.stack(grads)

    ran = []
    rows = Split.apply(torch.ones(9, 2, requires_grad=True))
    attach(rows[0], lambda grad: [attach(row, lambda grad: ran.append("late")) for row in rows[2:]] and None)
    attach(rows[1], lambda grad: ran.append("second"))
    sum(row.sum() for row in rows).backward()
    assert ran == ["second"]
