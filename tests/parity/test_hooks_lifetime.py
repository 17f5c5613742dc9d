# SPDX-License-Identifier: BSD-3-Clause
"""What hooks keep alive, and for how long."""

import gc
import weakref

import torch
from harness import scenario
from harness.registering import accumulate_grad, hooks_of, products


class Hook:
    """A hook that can be referred to weakly, and that makes a cycle with what it holds."""

    def __init__(self, *held):
        self.held = held

    def __call__(self, *grads):
        pass


def targets(s):
    """For each kind of hook: name, target and way of registering."""
    hooks = hooks_of(s)
    for kind, product in products(s):
        output = product(s.randn(2, requires_grad=True), s.randn(2))
        yield f"{kind}, tensor hook", output, hooks.register_tensor_hook
        yield f"{kind}, prehook", output.grad_fn, hooks.register_node_prehook
        yield f"{kind}, posthook", output.grad_fn, hooks.register_node_posthook
    leaf = s.randn(2, requires_grad=True)
    yield "leaf hook", leaf, hooks.register_tensor_hook
    yield "post accumulate", leaf, hooks.register_post_accumulate_grad_hook


def record_alive(s, label, refs):
    """Record which of the weak references in a dict have a target, before and after a garbage collection."""
    s.record(f"{label}, alive", [name for name, ref in refs.items() if ref() is not None])
    gc.collect()
    s.record(f"{label}, alive after gc", [name for name, ref in refs.items() if ref() is not None])


@scenario
def removed_hooks(s):
    for name, target, register in targets(s):
        hook = Hook()
        ref = weakref.ref(hook)
        register(target, hook).remove()
        del hook
        s.alive(name, ref)


@scenario
def hooks_of_what_is_gone(s):
    hooks = hooks_of(s)
    for kind, product in products(s):
        leaf = s.randn(2, requires_grad=True)
        output = product(leaf, s.randn(2))
        refs = {}
        for name, target, register in (
            ("tensor hook", output, hooks.register_tensor_hook),
            ("prehook", output.grad_fn, hooks.register_node_prehook),
            ("posthook", output.grad_fn, hooks.register_node_posthook),
            ("leaf hook", leaf, hooks.register_tensor_hook),
            ("leaf prehook", accumulate_grad(leaf), hooks.register_node_prehook),
            ("leaf posthook", accumulate_grad(leaf), hooks.register_node_posthook),
            ("post accumulate", leaf, hooks.register_post_accumulate_grad_hook),
        ):
            hook = Hook()
            refs[name] = weakref.ref(hook)
            register(target, hook)
        del hook, target
        record_alive(s, f"{kind}, all there", refs)
        node = output.grad_fn
        del output
        record_alive(s, f"{kind}, without the output", refs)
        del node
        record_alive(s, f"{kind}, without the node", refs)
        del leaf
        record_alive(s, f"{kind}, without the leaf", refs)


def cycle(s, register_on):
    """A weak reference to a hook that only what it holds itself keeps alive."""
    hook = Hook()
    register_on(hook)
    return weakref.ref(hook)


@scenario
def cycles_through_a_result(s):
    hooks = hooks_of(s)
    for kind, product in products(s):

        def on_tensor(hook):
            output = product(s.randn(2, requires_grad=True), s.randn(2))
            hook.held = output
            hooks.register_tensor_hook(output, hook)

        def before_node(hook):
            output = product(s.randn(2, requires_grad=True), s.randn(2))
            hook.held = output
            hooks.register_node_prehook(output.grad_fn, hook)

        def after_node(hook):
            output = product(s.randn(2, requires_grad=True), s.randn(2))
            hook.held = output.grad_fn
            hooks.register_node_posthook(output.grad_fn, hook)

        def after_node_with_other_kinds(hook):
            output = product(s.randn(2, requires_grad=True), s.randn(2))
            hook.held = output, output.grad_fn
            hooks.register_tensor_hook(output, hook)
            hooks.register_node_prehook(output.grad_fn, hook)
            hooks.register_node_posthook(output.grad_fn, hook)

        # What stock leaks with a custom Function's node is collected here: test_ctx_lifetime.py has those.
        leaked = (on_tensor, before_node, after_node_with_other_kinds) if kind == "torch's own" else ()
        for register_on in (after_node, *leaked):
            s.alive(f"{kind}, {register_on.__name__}", cycle(s, register_on))


@scenario
def cycles_through_a_leaf(s):
    hooks = hooks_of(s)

    def on_leaf(hook):
        leaf = s.randn(2, requires_grad=True)
        hook.held = leaf
        hooks.register_tensor_hook(leaf, hook)

    def after_accumulation(hook):
        leaf = s.randn(2, requires_grad=True)
        hook.held = leaf
        hooks.register_post_accumulate_grad_hook(leaf, hook)

    def in_use(hook):
        leaf = s.randn(2, requires_grad=True)
        hook.held = leaf * 2
        hooks.register_tensor_hook(leaf, hook)
        hook.held.sum().backward()

    for register_on in on_leaf, after_accumulation, in_use:
        s.alive(register_on.__name__, cycle(s, register_on))


@scenario
def cycles_in_a_chain(s):
    """Hooks at one end of a graph that hold the other end."""
    hooks = hooks_of(s)
    for kind, product in products(s):

        def at_the_start(hook):
            first = product(s.randn(2, requires_grad=True), s.randn(2))
            hook.held = product(first, s.randn(2))
            hooks.register_tensor_hook(first, hook)

        def at_the_end(hook):
            first = product(s.randn(2, requires_grad=True), s.randn(2))
            last = product(first, s.randn(2))
            hook.held = first
            hooks.register_node_posthook(last.grad_fn, hook)

        for register_on in at_the_start, at_the_end:
            # Stock torch leaks the other cycle, and torch_ext collects it: tests/reliability/cycles.py.
            if kind == "torch's own" or register_on is at_the_end:
                s.alive(f"{kind}, {register_on.__name__}", cycle(s, register_on))


@scenario
def handles_keep_nothing_alive(s):
    for name, target, register in targets(s):
        hook = Hook()
        handle = register(target, hook)
        ref = weakref.ref(hook)
        handle.hooks_dict_ref().clear()
        del hook
        s.alive(name, ref)
        handle.remove()


@scenario
def references_of_what_hooks_get_and_give(s):
    hooks = hooks_of(s)
    leaf = s.randn(2, requires_grad=True)
    replacement = s.randn(2)
    replacements = (replacement, None)
    for kind, product in products(s):
        output = product(leaf, s.randn(2))
        hooks.register_tensor_hook(output, lambda grad: replacement)
        hooks.register_node_prehook(output.grad_fn, lambda grads: (replacement,))
        hooks.register_node_posthook(output.grad_fn, lambda *grads: replacements)
        grad = s.randn(2)

        def backward(output=output, grad=grad):
            output.backward(grad, retain_graph=True)
            leaf.grad = None

        s.references(kind, backward, leaf, replacement, replacements, grad, None)


@scenario
def references_where_hooks_fail(s):
    hooks = hooks_of(s)
    leaf = s.randn(2, requires_grad=True)
    wrong = s.randn(3)
    for register in hooks.register_node_prehook, hooks.register_node_posthook:
        output = leaf * 2
        register(output.grad_fn, lambda *grads: (wrong,) * 3)
        s.references("wrong", lambda: output.sum().backward(retain_graph=True), leaf, wrong, None)


@scenario
def references_of_hooks(s):
    for name, target, register in targets(s):
        hook = Hook()
        s.references(name, lambda: register(target, hook).remove(), hook, None)


@scenario
def gradients_are_freed_as_before(s):
    """A hook that only looks keeps no gradient alive, and costs no copy when it is accumulated."""
    hooks = hooks_of(s)
    leaf = s.randn(2, requires_grad=True)
    refs, places = [], []

    def look(*grads):
        tensors = [t for grad in grads for t in (grad if isinstance(grad, tuple) else (grad,)) if t is not None]
        refs.extend(weakref.ref(t) for t in tensors)
        places.extend(t.data_ptr() for t in tensors)

    output = leaf * 2
    hooks.register_tensor_hook(output, look)
    hooks.register_node_prehook(output.grad_fn, look)
    hooks.register_node_posthook(output.grad_fn, look)
    hooks.register_tensor_hook(leaf, look)
    output.sum().backward()
    s.record("alive", [ref() is not None for ref in refs])
    gc.collect()
    s.record("the grad is the last tensor seen", leaf.grad.data_ptr() == places[-1])


@scenario
def deleted_while_hooks_run(s):
    hooks = hooks_of(s)
    box = [s.randn(2, requires_grad=True) * 2]
    ref = weakref.ref(box[0])
    hooks.register_tensor_hook(box[0], lambda grad: (box.clear(), gc.collect(), s.record("ran", grad))[-1])
    torch.autograd.backward(box[0].sum())
    s.alive("output", ref)
