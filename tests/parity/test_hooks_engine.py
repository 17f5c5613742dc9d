# SPDX-License-Identifier: BSD-3-Clause
"""Hooks and the engine: which of them run, on which thread, and what a raising hook leaves behind."""

import threading

import pytest
import torch
from harness import scenario
from harness.registering import accumulate_grad, empty_the_queue, hooks_of, products
from harness.small_functions import make_square
from torch.autograd.graph import register_multi_grad_hook
from torch.utils.checkpoint import checkpoint

import torch_ext


def watch(s, hooks, name, tensor):
    """Record each hook that runs on a tensor and on its node."""
    node = tensor.grad_fn or accumulate_grad(tensor)
    hooks.register_tensor_hook(tensor, lambda grad: s.record(f"{name}: tensor hook"))
    hooks.register_node_prehook(node, lambda grads: s.record(f"{name}: prehook"))
    hooks.register_node_posthook(node, lambda *grads: s.record(f"{name}: posthook", grads))
    if tensor.is_leaf:
        hooks.register_post_accumulate_grad_hook(tensor, lambda leaf: s.record(f"{name}: accumulated"))


def watched_graph(s, product):
    """Leaves and results by name, all of them watched: total = (left * right) * left."""
    left, right = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
    middle = product(left, right)
    total = product(middle, left)
    tensors = {"left": left, "right": right, "middle": middle, "total": total}
    hooks = hooks_of(s)
    for name, tensor in tensors.items():
        watch(s, hooks, name, tensor)
    return tensors


@scenario
def grad_of_some_inputs(s):
    for kind, product in products(s):
        for wanted in ("left",), ("right",), ("middle",), ("total",), ("middle", "left"), ("total", "right"):
            tensors = watched_graph(s, product)
            grads = torch.autograd.grad(tensors["total"].sum(), [tensors[name] for name in wanted])
            s.record(f"{kind}, {wanted}", grads)


@scenario
def backward_to_some_inputs(s):
    for kind, product in products(s):
        for wanted in ("left",), ("right",), ("middle",), ("middle", "right"):
            tensors = watched_graph(s, product)
            tensors["middle"].retain_grad()
            tensors["total"].sum().backward(inputs=[tensors[name] for name in wanted])
            s.record(f"{kind}, {wanted}", [tensor.grad for tensor in tensors.values() if tensor.is_leaf])


@scenario
def captured_gradient_that_hooks_replace(s):
    hooks = hooks_of(s)
    for kind, product in products(s):
        leaf = s.randn(2, requires_grad=True)
        middle = product(leaf, leaf)
        hooks.register_tensor_hook(middle, lambda grad: grad * 10)
        hooks.register_node_prehook(middle.grad_fn, lambda grads: (grads[0] * 100,))
        hooks.register_tensor_hook(leaf, lambda grad: grad + 1)
        s.record(kind, torch.autograd.grad((middle * 2).sum(), [middle, leaf], retain_graph=True))
        s.record(f"{kind}, captured alone", torch.autograd.grad((middle * 2).sum(), [middle]))


@scenario
def hooks_that_raise(s):
    def fail(*grads):
        raise ValueError("from the hook")

    hooks = hooks_of(s)
    for kind, product in products(s):
        for name, register in (
            ("tensor hook", lambda leaf, y: hooks.register_tensor_hook(y, fail)),
            ("prehook", lambda leaf, y: hooks.register_node_prehook(y.grad_fn, fail)),
            ("posthook", lambda leaf, y: hooks.register_node_posthook(y.grad_fn, fail)),
            ("leaf hook", lambda leaf, y: hooks.register_tensor_hook(leaf, fail)),
            ("post accumulate", lambda leaf, y: hooks.register_post_accumulate_grad_hook(leaf, fail)),
        ):
            leaf = s.randn(2, requires_grad=True)
            output = product(leaf, s.randn(2))
            handle = register(leaf, output)
            s.raises(f"{kind}, {name}", output.sum().backward, retain_graph=True)
            s.record("gradient", leaf.grad)
            handle.remove()
            output.sum().backward()
            s.record("without it", leaf.grad)


@scenario
def hooks_that_raise_what_is_no_exception_to_most(s):
    class Stop(BaseException):
        pass

    hooks = hooks_of(s)
    for error in Stop("stop"), KeyboardInterrupt(), StopIteration(3):

        def fail(grad, error=error):
            raise error

        leaf = s.randn(2, requires_grad=True)
        hooks.register_tensor_hook(leaf, fail)
        s.raises(type(error).__name__, (leaf * 2).sum().backward)
    empty_the_queue()


@scenario
def hooks_that_raise_after_others_ran(s):
    hooks = hooks_of(s)
    leaf = s.randn(2, requires_grad=True)
    output = leaf * 2
    hooks.register_tensor_hook(output, lambda grad: s.record("first"))
    hooks.register_tensor_hook(output, lambda grad: 1 / 0)
    hooks.register_tensor_hook(output, lambda grad: s.record("never"))
    s.raises("backward", output.sum().backward)


@scenario
def wrong_number_of_arguments(s):
    hooks = hooks_of(s)
    leaf = s.randn(2, requires_grad=True)
    for name, register in (
        ("tensor hook", lambda output: hooks.register_tensor_hook(output, lambda: None)),
        ("prehook", lambda output: hooks.register_node_prehook(output.grad_fn, lambda one, two: None)),
        ("posthook", lambda output: hooks.register_node_posthook(output.grad_fn, lambda one: None)),
    ):
        output = leaf * 2
        register(output)
        s.raises(name, output.sum().backward)


@scenario
def double_backward(s):
    for kind, product in products(s):
        leaf = s.randn(2, requires_grad=True)
        hooks = hooks_of(s)
        output = product(leaf, leaf)
        hooks.register_tensor_hook(output, lambda grad: grad * leaf)
        hooks.register_node_prehook(output.grad_fn, lambda grads: tuple(grad.exp() for grad in grads))
        hooks.register_node_posthook(output.grad_fn, lambda grads, outs: tuple(grad * outs[0] for grad in grads))
        (grad,) = torch.autograd.grad(output.sum(), leaf, create_graph=True)
        s.record(kind, grad)
        watch(s, hooks, "gradient", grad)
        s.record(f"{kind}, twice", torch.autograd.grad(grad.sum(), leaf))


@scenario
def backward_inside_a_hook(s):
    hooks = hooks_of(s)
    for kind, product in products(s):
        leaf = s.randn(2, requires_grad=True)
        output = product(leaf, s.randn(2))

        @torch.enable_grad()
        def inner(*grads, leaf=leaf):
            other = s.randn(2, requires_grad=True)
            hooks.register_tensor_hook(other, lambda grad: s.record("inner hook", grad))
            s.record("inner", torch.autograd.grad((other * leaf.detach()).sum(), other))

        hooks.register_tensor_hook(output, inner)
        hooks.register_node_prehook(output.grad_fn, inner)
        hooks.register_node_posthook(output.grad_fn, inner)
        hooks.register_post_accumulate_grad_hook(leaf, inner)
        s.record(kind, output.sum().backward())


@scenario
def checkpointed(s):
    hooks = hooks_of(s)
    square = make_square(s.Function).apply

    def block(x):
        y = square(x)
        if y.requires_grad:  # the reentrant kind runs without grad first
            hooks.register_tensor_hook(y, lambda grad: s.record("inside", grad))
        return y * 2

    for reentrant in False, True:
        leaf = s.randn(2, requires_grad=True)
        output = checkpoint(block, leaf, use_reentrant=reentrant)
        hooks.register_tensor_hook(output, lambda grad: s.record("outside", grad))
        output.sum().backward()
        s.record("leaf", leaf)


@scenario
def multi_grad_hooks(s):
    hooks = hooks_of(s)
    for kind, product in products(s):
        left, right = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
        first, second, unused = product(left, right), product(left, left), product(right, right)
        tensors = (first, second, unused, left)
        for tensor in tensors:
            hooks.register_tensor_hook(tensor, lambda grad: s.record("hook", grad))
        everything = register_multi_grad_hook(tensors, lambda grads: s.record("all", grads))
        register_multi_grad_hook(tensors, lambda grad: s.record("any", grad), mode="any")
        for tensor in tensors:
            hooks.register_tensor_hook(tensor, lambda grad: s.record("later hook"))
        (first + second).sum().backward(retain_graph=True)
        first.sum().backward(inputs=[left], retain_graph=True)
        everything.remove()
        s.record(kind, second.sum().backward())


@scenario
def helpers_of_the_graph_module(s):
    hooks = hooks_of(s)
    for kind, product in products(s):
        leaf = s.randn(2, requires_grad=True)
        output = product(leaf, s.randn(2))
        hooks.register_node_prehook(output.grad_fn, lambda grads: s.record("prehook"))
        edge = torch.autograd.graph.get_gradient_edge(output)
        hooks.register_node_posthook(edge.node, lambda *grads: s.record("posthook"))
        s.record(kind, torch.autograd.grad(edge, [leaf], s.randn(2), retain_graph=True))
        remove = torch.autograd.graph._register_logging_hooks_on_whole_graph([output])
        output.sum().backward(retain_graph=True)
        remove()
        with torch.autograd.graph.save_on_cpu():
            hooks.register_tensor_hook(output, lambda grad: s.record("tensor hook"))
        s.record(kind, output.sum().backward())


@scenario
def current_node(s):
    hooks = hooks_of(s)
    for kind, product in products(s):
        output = product(s.randn(2, requires_grad=True), s.randn(2))
        name = lambda *_: s.record("current", torch._C._current_autograd_node())  # noqa: E731
        hooks.register_node_prehook(output.grad_fn, name)
        hooks.register_node_posthook(output.grad_fn, name)
        hooks.register_tensor_hook(output, name)
        s.record(kind, output.sum().backward())


@scenario
def module_hooks(s):
    class Module(torch.nn.Module):
        def forward(self, x):
            return make_square(s.Function).apply(x)

    hooks = hooks_of(s)
    module, x = Module(), s.randn(2, requires_grad=True)
    for number, prepend in (1, False), (2, True):
        module.register_full_backward_hook(
            lambda m, ins, outs, number=number: s.record(f"module {number}", ins, outs), prepend=prepend
        )
        module.register_full_backward_pre_hook(
            lambda m, outs, number=number: s.record(f"module before {number}", outs), prepend=prepend
        )
    output = module(x)
    hooks.register_tensor_hook(output, lambda grad: s.record("output", grad))
    hooks.register_node_posthook(output.grad_fn, lambda *grads: s.record("last node", grads))
    output.sum().backward()


@scenario
def backward_on_another_thread(s):
    hooks = hooks_of(s)
    for kind, product in products(s):
        leaf = s.randn(2, requires_grad=True)
        output = product(leaf, s.randn(2))
        runner = threading.Thread(target=output.sum().backward)
        where = lambda *_: s.record("on the runner", threading.current_thread() is runner)  # noqa: E731
        hooks.register_tensor_hook(output, where)
        hooks.register_node_prehook(output.grad_fn, where)
        hooks.register_node_posthook(output.grad_fn, where)
        hooks.register_post_accumulate_grad_hook(leaf, where)
        runner.start()
        runner.join()
        s.record(kind, leaf.grad)


def deep_inside(depth, innermost):
    """Backward inside backward, so deep that the engine goes on on threads of its own; a Function for each level."""

    class Reenter(torch_ext.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            with torch.enable_grad():
                deep_inside(depth - 1, innermost)
            return grad

    x = torch.ones(2, requires_grad=True)
    if depth == 0:
        innermost(x)
        return
    Reenter.apply(x).sum().backward()


def test_hooks_run_on_threads_that_the_engine_made():
    seen = []

    def watch_and_run(x):
        y = x * 2
        note = lambda *_: seen.append(threading.current_thread() is threading.main_thread())  # noqa: E731
        torch_ext.hooks.register_tensor_hook(y, note)
        torch_ext.hooks.register_node_prehook(y.grad_fn, note)
        torch_ext.hooks.register_node_posthook(y.grad_fn, note)
        torch_ext.hooks.register_post_accumulate_grad_hook(x, note)
        y.sum().backward()

    deep_inside(70, watch_and_run)  # the engine goes on elsewhere from 60 on
    assert seen == [False] * 4


def test_an_exception_reaches_the_caller_from_a_thread_that_the_engine_made():
    error = ValueError("from far away")

    def fail(grad):
        raise error

    def watch_and_run(x):
        torch_ext.hooks.register_tensor_hook(x, fail)
        (x * 2).sum().backward()

    with pytest.raises(ValueError) as caught:  # noqa: PT011 (this very one: see below)
        deep_inside(70, watch_and_run)
    assert caught.value is error


def test_many_threads_share_one_graph():
    leaf = torch.ones(4, requires_grad=True)
    output = leaf * 2
    calls = []
    torch_ext.hooks.register_tensor_hook(output, calls.append)
    torch_ext.hooks.register_node_prehook(output.grad_fn, calls.append)
    torch_ext.hooks.register_node_posthook(output.grad_fn, lambda *grads: calls.append(grads))
    failures = []

    def work():
        try:
            for _ in range(50):
                handle = torch_ext.hooks.register_tensor_hook(output, lambda grad: grad)
                torch.autograd.grad(output, leaf, torch.ones(4), retain_graph=True)
                handle.remove()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(calls) == 4 * 50 * 3
