# SPDX-License-Identifier: BSD-3-Clause
"""What a Function keeps alive, and what the garbage collector can free."""

import gc
import weakref

import pytest
import torch
from harness import scenario, torch_is_since
from harness.small_functions import make_identity

import torch_ext
from torch_ext import hooks


class Marker:
    """Something that can be referred to weakly."""


def make_function(s, forward=lambda ctx, x, y: None, backward=lambda ctx, grad: None):
    class Double(s.Function):
        @staticmethod
        def forward(ctx, x):
            y = x * 2
            forward(ctx, x, y)
            return y

        @staticmethod
        def backward(ctx, grad):
            backward(ctx, grad)
            return grad * 2

    return Double


@scenario
def weak_reference_to_ctx(s):
    refs = []
    y = make_function(s, lambda ctx, x, y: refs.append(weakref.ref(ctx))).apply(s.randn(2, requires_grad=True))
    s.record("the node", refs[0]() is y.grad_fn, weakref.ref(y.grad_fn) is refs[0])
    del y
    s.alive("ctx", refs[0])


@scenario
def weak_reference_to_ctx_survives_the_python_side(s):
    y = make_function(s).apply(s.randn(2, requires_grad=True))
    ref = weakref.ref(y.grad_fn)
    gc.collect()
    s.record("alive", ref() is y.grad_fn)


@scenario
def weak_reference_callback(s):
    y = make_function(s).apply(s.randn(2, requires_grad=True))
    ref = weakref.ref(y.grad_fn, lambda ref: s.record("callback", ref() is None))
    del y
    s.alive("node", ref)


@scenario
def weak_key_dictionary_of_nodes(s):
    y = make_function(s).apply(s.randn(2, requires_grad=True))
    table = weakref.WeakKeyDictionary({y.grad_fn: 1})
    s.record("before", len(table), table[y.grad_fn])
    del y
    s.record("after", len(table))


@scenario
def ctx_without_grad_dies_at_once(s):
    refs = []
    function = make_function(s, lambda ctx, x, y: refs.append(weakref.ref(ctx)))
    y = function.apply(s.randn(2))
    s.alive("no input requires grad", refs[0])
    with torch.no_grad():
        z = function.apply(s.randn(2, requires_grad=True))
    s.alive("no_grad", refs[1])
    s.record("outputs", y, z)


@scenario
def ctx_without_grad_kept(s):
    kept = []
    make_function(s, lambda ctx, x, y: kept.append(ctx)).apply(s.randn(2))
    ref = weakref.ref(kept[0])
    s.alive("kept", ref)
    kept.clear()
    s.alive("dropped", ref)


def keep_on_ctx(name):
    """A forward callback that puts a new marker on ctx, and the list of weak references to the markers."""
    refs = []

    def forward(ctx, x, y):
        marker = Marker()
        refs.append(weakref.ref(marker))
        setattr(ctx, name, marker)

    return forward, refs


@scenario
def attribute_dies_with_the_graph(s):
    forward, refs = keep_on_ctx("marker")
    y = make_function(s, forward).apply(s.randn(2, requires_grad=True))
    s.alive("with the graph", refs[0])
    y.sum().backward()
    s.alive("after backward", refs[0])
    del y
    s.alive("without it", refs[0])


@scenario
def attribute_without_grad_dies_with_the_call(s):
    forward, refs = keep_on_ctx("marker")
    y = make_function(s, forward).apply(s.randn(2))
    s.alive("marker", refs[0])
    s.record("output", y)


@scenario
def attribute_dies_deep_in_a_graph(s):
    forward, refs = keep_on_ctx("marker")
    function = make_function(s, forward)
    y = s.randn(2, requires_grad=True)
    for _ in range(3):
        y = function.apply(y).sin()
    del y
    for ref in refs:
        s.alive("marker", ref)


@scenario
def cycle_through_an_attribute(s):
    def forward(ctx, x, y):
        ctx.itself = ctx

    y = make_function(s, forward).apply(s.randn(2, requires_grad=True))
    ref = weakref.ref(y.grad_fn)
    del y
    s.alive("node", ref)


@scenario
def cycle_through_an_attribute_without_grad(s):
    refs = []

    def forward(ctx, x, y):
        ctx.itself = ctx
        refs.append(weakref.ref(ctx))

    make_function(s, forward).apply(s.randn(2))
    s.alive("ctx", refs[0])


@scenario
def cycle_through_the_output_as_an_attribute(s):
    y = make_function(s).apply(s.randn(2, requires_grad=True))
    y.grad_fn.output = y
    ref = weakref.ref(y)
    del y
    s.alive("output", ref)


@scenario
def cycle_through_the_raw_output_as_an_attribute(s):
    refs = []

    def forward(ctx, x, y):
        ctx.output = y
        refs.append(weakref.ref(y))

    y = make_function(s, forward).apply(s.randn(2, requires_grad=True))
    s.record("same", y.grad_fn.output is y)
    del y
    s.alive("output", refs[0])


@scenario
def cycle_through_an_attribute_of_the_output(s):
    y = make_function(s).apply(s.randn(2, requires_grad=True))
    y.node = y.grad_fn
    ref = weakref.ref(y)
    del y
    s.alive("output", ref)


@scenario
def cycle_through_a_retained_gradient(s):
    x = s.randn(2, requires_grad=True)
    y = make_function(s).apply(x)
    y.retain_grad()
    y.sum().backward(create_graph=True)
    ref = weakref.ref(y)
    y.grad.output = y
    del y
    s.alive("output", ref)
    x.grad = None


@scenario
def metadata_cleared_of_its_own_node(s):
    y = make_function(s).apply(s.randn(2, requires_grad=True))
    y.grad_fn.metadata["node"] = y.grad_fn
    ref = weakref.ref(y.grad_fn)
    y.grad_fn.metadata.clear()
    del y
    s.alive("node", ref)


def test_cycle_through_a_saved_tensor_is_collected_where_torch_leaks():
    """A saved input whose attribute leads to the node: torch's node doesn't show its saved tensors to the collector."""

    class Saves(torch_ext.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

    a = torch.ones(2, requires_grad=True).clone()
    y = Saves.apply(a)
    a.node = y.grad_fn
    ref = weakref.ref(y.grad_fn)
    del a, y
    gc.collect()
    assert ref() is None


def keeping(*kept):
    """A hook that refers to ``kept``."""
    return lambda *args, kept=kept: None


HOOK_CYCLES = {
    "posthook": lambda y, node: node.register_hook(keeping(node)),
    "prehook": lambda y, node: node.register_prehook(keeping(node)),
    "tensor hook": lambda y, node: y.register_hook(keeping(y)),
    "our posthook": lambda y, node: hooks.register_node_posthook(node, keeping(node)),
    "our prehook": lambda y, node: hooks.register_node_prehook(node, keeping(node)),
    "our tensor hook": lambda y, node: hooks.register_tensor_hook(y, keeping(y)),
    "metadata": lambda y, node: node.metadata.update(output=y, node=node),
    "several": lambda y, node: [
        register(keeping(y, node)) for register in [node.register_hook, node.register_prehook, y.register_hook] * 2
    ],
}


def output_with(kind, x):
    y = make_identity(torch_ext.Function).apply(x)
    HOOK_CYCLES[kind](y, y.grad_fn)
    return y


if torch_is_since("2.13"):  # before, the node owns its ctx, and the collector isn't shown that

    @pytest.mark.parametrize("used", [False, True])
    @pytest.mark.parametrize("kind", HOOK_CYCLES)
    def test_cycle_through_a_hook_is_collected_where_torch_leaks(kind, used):
        """torch's node shows its hooks to the collector only if nothing but its Python object holds it."""
        y = output_with(kind, torch.ones(2, requires_grad=True))
        if used:
            y.sum().backward()
        refs = weakref.ref(y), weakref.ref(y.grad_fn)
        del y
        gc.collect()
        assert [ref() for ref in refs] == [None, None]


@pytest.mark.parametrize("kind", HOOK_CYCLES)
def test_hooks_in_use_survive_the_collector(kind):
    x = torch.ones(2, requires_grad=True)
    z = output_with(kind, x) * 1  # holds the node by its next edge, from C++
    for _ in range(3):
        gc.collect()
    node = z.grad_fn.next_functions[0][0]
    assert ("node" in node.metadata) == (kind == "metadata")
    z.sum().backward()
    assert torch.equal(x.grad, torch.ones(2))


@scenario
def node_brought_back_by_a_finaliser(s):
    class BringsBack:
        def __init__(self, node):
            self.node = node

        def __del__(self):
            back.append(self.node)

    for end in "read", "backward", "changed in place":
        back = []
        x = s.randn(2, requires_grad=True)
        alone, shared = x * 2, x * 3
        y = make_function(s, lambda ctx, a, y: ctx.save_for_backward(a, None, y, shared)).apply(alone)
        y.grad_fn.finaliser, y.grad_fn.output = BringsBack(y.grad_fn), y
        views = alone.view(2)
        del alone, y
        gc.collect()
        (node,) = back
        for _ in range(2):
            gc.collect()
        if end == "changed in place":
            views.mul_(2)
            s.raises("changed", lambda node=node: node.saved_tensors)
            continue
        s.record(end, node.saved_tensors, node.saved_tensors[1])
        if end == "backward":
            node.output.sum().backward()
            s.record("gradient", x.grad)
            s.raises("freed", lambda node=node: node.saved_tensors)


def test_node_brought_back_is_collected_the_next_time():
    class BringsBack:
        def __init__(self, node):
            self.node = node

        def __del__(self):
            back.append(self.node)

    back = []
    x = torch.ones(2, requires_grad=True) * 2
    y = make_function(torch_ext, lambda ctx, a, y: ctx.save_for_backward(a)).apply(x)
    y.grad_fn.finaliser, x.node = BringsBack(y.grad_fn), y.grad_fn
    del x, y
    gc.collect()
    ref = weakref.ref(back.pop())
    gc.collect()
    assert ref() is None


@scenario
def saved_tensor_in_use_elsewhere_survives_the_collector(s):
    a = s.randn(2, requires_grad=True).clone()
    y = make_function(s, lambda ctx, x, y: ctx.save_for_backward(x, x.detach(), y)).apply(a)
    alias = a.view(2)
    ref = weakref.ref(a)
    a.marker = [1]
    del a
    for _ in range(3):
        gc.collect()
    s.alive("saved", ref)
    s.record("marker", ref().marker, y.grad_fn.saved_tensors[0] is ref())
    z = y * 2
    del y
    gc.collect()
    s.record("still there", ref().marker, z.grad_fn.next_functions[0][0].saved_tensors)
    z.sum().backward()
    s.alive("saved, after backward", ref)
    s.record("alias", alias)


@scenario
def saved_tensor_with_a_cycle_of_its_own(s):
    a = s.randn(2, requires_grad=True).clone()
    a.itself = a
    y = make_function(s, lambda ctx, x, y: ctx.save_for_backward(x)).apply(a)
    ref = weakref.ref(a)
    del a
    gc.collect()
    s.record("kept by the node", ref() is not None and ref().itself is ref(), y.grad_fn.saved_tensors[0] is ref())
    y.sum().backward()
    s.alive("after backward", ref)


if torch_is_since("2.13"):

    def test_cycle_through_two_nodes_is_collected_where_torch_leaks():
        """Only the second node's edge holds the first one, and only the first one holds the second."""
        function = make_function(torch_ext)
        y = function.apply(torch.ones(2, requires_grad=True))
        z = function.apply(y)
        y.grad_fn.next = z.grad_fn
        refs = weakref.ref(y.grad_fn), weakref.ref(z.grad_fn)
        del y, z
        gc.collect()
        assert [ref() for ref in refs] == [None, None]


@scenario
def cycle_through_a_node_of_torch(s):
    y = make_function(s).apply(s.randn(2, requires_grad=True))
    z = y.sin()
    y.grad_fn.next = z
    ref = weakref.ref(y.grad_fn)
    del y, z
    s.alive("node", ref)


def make_cycle_and_end_it(s, attribute):
    y = make_function(s).apply(s.randn(2, requires_grad=True))
    setattr(y.grad_fn, attribute, (y.grad_fn,))
    ref = weakref.ref(y.grad_fn)
    del y
    s.alive("node", ref)
    if ref() is not None:
        delattr(ref(), attribute)
        s.alive("node without it", ref)


@scenario(not_before="2.13")
def cycle_through_needs_input_grad(s):
    make_cycle_and_end_it(s, "needs_input_grad")


@scenario
def cycle_through_saved_for_forward(s):
    make_cycle_and_end_it(s, "saved_for_forward")


@scenario
def cycle_through_every_tuple(s):
    for name in ("to_save", "non_differentiable", "dirty_tensors"):
        y = make_function(s).apply(s.randn(2, requires_grad=True))
        setattr(y.grad_fn, name, (y.grad_fn,))
        ref = weakref.ref(y.grad_fn)
        del y
        s.alive(name, ref)


@scenario
def tracked_by_the_collector(s):
    y = make_function(s).apply(s.randn(2, requires_grad=True))
    node = y.grad_fn
    node.a = [1]
    s.record("tracked", gc.is_tracked(node))
    s.record("refers to the class", type(node) in gc.get_referents(node))
    s.record("refers to its attributes", node.a in gc.get_referents(node) or vars(node) in gc.get_referents(node))


@scenario
def inputs_are_not_kept(s):
    a = s.randn(2, requires_grad=True).clone()
    ref = weakref.ref(a)
    y = make_function(s).apply(a)
    del a
    s.alive("input", ref)
    s.record("output", y)


@scenario
def leaf_is_not_kept(s):
    x = s.randn(2, requires_grad=True)
    ref = weakref.ref(x)
    y = make_function(s).apply(x)
    del x
    s.alive("leaf", ref)
    y.sum().backward()


@scenario
def non_tensor_arguments_are_not_kept(s):
    class Takes(s.Function):
        @staticmethod
        def forward(ctx, x, thing):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad, None

    marker = Marker()
    ref = weakref.ref(marker)
    y = Takes.apply(s.randn(2, requires_grad=True), marker)
    del marker
    s.alive("argument", ref)
    y.sum().backward()


@scenario
def intermediates_are_not_kept(s):
    refs = []

    class Works(s.Function):
        @staticmethod
        def forward(ctx, x):
            middle = x.exp()
            refs.append(weakref.ref(middle))
            return middle * 2

        @staticmethod
        def backward(ctx, grad):
            refs.append(weakref.ref(grad))
            middle = grad * 2
            refs.append(weakref.ref(middle))
            return middle * 2

    y = Works.apply(s.randn(2, requires_grad=True))
    s.alive("of forward", refs[0])
    y.sum().backward()
    s.alive("gradient", refs[1])
    s.alive("of backward", refs[2])


@scenario
def gradients_are_not_kept(s):
    refs = []
    x = s.randn(2, requires_grad=True)
    y = make_function(s, backward=lambda ctx, grad: refs.append(weakref.ref(grad))).apply(x)
    y.sum().backward(retain_graph=True)
    s.alive("gradient", refs[0])
    x.grad = None
    s.record("output", y)


@scenario
def class_is_collected(s):
    function = make_function(s)
    refs = [weakref.ref(function), weakref.ref(function._backward_cls)]
    y = function.apply(s.randn(2, requires_grad=True))
    refs.append(weakref.ref(function._backward_cls))
    y.sum().backward()
    del function
    for ref in refs:
        s.alive("with a node", ref)
    del y
    for ref in refs:
        s.alive("without", ref)


@scenario
def class_that_was_never_called_is_collected(s):
    ref = weakref.ref(make_function(s))
    s.alive("class", ref)


@scenario
def replaced_rule_is_released(s):
    function = make_function(s)
    x = s.randn(2, requires_grad=True)
    function.apply(x).sum().backward()
    refs = [weakref.ref(function.forward), weakref.ref(function.backward)]
    function.forward = staticmethod(lambda ctx, x: x * 1)
    function.backward = staticmethod(lambda ctx, grad: grad)
    for ref in refs:
        s.alive("replaced, not called", ref)
    function.apply(x).sum().backward()
    for ref in refs:
        s.alive("replaced and called", ref)


@scenario
def reference_counts_of_a_call(s):
    x, frozen, marker = s.randn(2, requires_grad=True), s.randn(2), Marker()

    class Takes(s.Function):
        @staticmethod
        def forward(ctx, x, frozen, marker):
            ctx.save_for_backward(x, frozen)
            ctx.marker = marker
            return x * 2, marker

        @staticmethod
        def backward(ctx, grad, none):
            ctx.saved_tensors
            return grad, None, None

    things = (x, frozen, marker, None, True, False, (), Takes, Takes.forward, Takes.backward)
    s.references("forward", lambda: Takes.apply(x, frozen, marker), *things)
    s.references("forward without grad", lambda: Takes.apply(frozen, frozen, marker), *things)
    s.references("backward", lambda: Takes.apply(x, frozen, marker)[0].sum().backward(), *things)


@scenario
def reference_counts_of_attributes(s):
    node = make_function(s, lambda ctx, x, y: ctx.save_for_backward(x)).apply(s.randn(2, requires_grad=True)).grad_fn
    things = (node, type(node), None, True, ())
    for name in (
        "saved_tensors",
        "_raw_saved_tensors",
        "next_functions",
        "metadata",
        "needs_input_grad",
        "to_save",
        "saved_for_forward",
        "dirty_tensors",
        "non_differentiable",
        "requires_grad",
        "_input_metadata",
        "_materialize_non_diff_grads",
    ):
        s.references(name, lambda name=name: getattr(node, name), *things)
    s.references("name", node.name, *things)
    s.references("missing", lambda: node.missing, *things)


@scenario
def reference_counts_of_setters(s):
    node = make_function(s).apply(s.randn(2, requires_grad=True)).grad_fn
    value = (Marker(),)
    for name in ("to_save", "saved_for_forward", "dirty_tensors", "non_differentiable", "needs_input_grad"):
        s.references(name, lambda name=name: setattr(node, name, value), value, node, None)
        setattr(node, name, ())
    for name in ("materialize_grads", "_materialize_non_diff_grads", "_is_pure_view"):
        s.references(name, lambda name=name: setattr(node, name, True), node, True, None)


@scenario
def reference_counts_of_hooks(s):
    def hook(*args):
        pass

    def run():
        y = function.apply(x)
        y.grad_fn.register_hook(hook)
        y.grad_fn.register_prehook(hook)
        y.register_hook(hook)
        y.sum().backward()

    function = make_function(s)
    x = s.randn(2, requires_grad=True)
    s.references("hooks", run, hook, x, None)


@scenario
def many_calls_leave_nothing(s):
    function = make_function(s, lambda ctx, x, y: ctx.save_for_backward(x, y))
    x = s.randn(2, requires_grad=True)
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(200):
        function.apply(function.apply(x)).sum().backward()
    gc.collect()
    x.grad = None
    s.record("growth is bounded", len(gc.get_objects()) - before < 50)
