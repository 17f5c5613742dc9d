# SPDX-License-Identifier: BSD-3-Clause
"""torch.autograd.graph over graphs that custom Functions and torch's own nodes share."""

import logging
import threading

import torch
import torch._dynamo  # torch does so on the first use of a dispatch mode: its classes are no leak
from harness import scenario
from harness.small_functions import make_doubler, make_identity, make_product, make_square
from torch.autograd.graph import (
    GradientEdge,
    Node,
    allow_mutation_on_saved_tensors,
    disable_saved_tensors_hooks,
    get_gradient_edge,
    increment_version,
    register_multi_grad_hook,
    save_on_cpu,
    saved_tensors_hooks,
)


def make_sort(s):
    """The sorted values, and the index that each came from, which has no gradient."""

    class Sort(s.Function):
        @staticmethod
        def forward(ctx, x):
            values, order = x.sort()
            ctx.mark_non_differentiable(order)
            ctx.save_for_backward(order, values)
            return values, order

        @staticmethod
        def backward(ctx, values_grad, _):
            order, values = ctx.saved_tensors
            return torch.zeros_like(values).index_put((order,), values_grad)

    return Sort


def nodes_of(*tensors):
    """Every node that the tensors come from, each once, breadth first."""
    queue, seen = [get_gradient_edge(t).node for t in tensors], []
    for node in queue:
        if node not in seen:
            seen.append(node)
            queue.extend(following for following, _ in node.next_functions if following is not None)
    return seen


def mixed_graph(s):
    square, product, sort = make_square(s.Function), make_product(s.Function), make_sort(s)
    x, y = s.randn(4, requires_grad=True), s.randn(4, requires_grad=True)
    values, order = sort.apply(product.apply(x.exp(), y))
    return x, y, values, order, square.apply(values)[1:] * x[order[1:]]


# Node


@scenario
def the_whole_graph(s):
    x, y, values, order, out = mixed_graph(s)
    for node in nodes_of(out):
        s.record("node", node.name(), isinstance(node, Node), [(n and n.name(), i) for n, i in node.next_functions])
    s.record("identity", len(nodes_of(out)), len(nodes_of(out, values)), values.grad_fn in nodes_of(out))
    s.raises("no gradient", get_gradient_edge, order)


@scenario
def node_is_abstract(s):
    node = make_square(s.Function).apply(s.randn(2, requires_grad=True)).grad_fn
    s.record("subclasses", issubclass(type(node), Node), issubclass(make_square(s.Function), Node))
    s.record("methods", sorted(Node.__abstractmethods__ - set(dir(node))))
    s.raises("instance", Node)
    for name in sorted(Node.__abstractmethods__):
        s.outcome(name, lambda name=name: type(getattr(node, name)).__name__)


@scenario
def metadata_of_every_node(s):
    *_, out = mixed_graph(s)
    for number, node in enumerate(nodes_of(out)):
        node.metadata["number"] = number
    s.record("kept", [node.metadata for node in nodes_of(out)])
    s.record("same dict", all(node.metadata is node.metadata for node in nodes_of(out)))


@scenario
def hooks_on_every_node(s):
    x, y, values, order, out = mixed_graph(s)
    for node in nodes_of(out):
        node.register_prehook(lambda grads, name=node.name(): s.record(f"before {name}", grads))
        node.register_hook(lambda ins, outs, name=node.name(): s.record(f"after {name}", ins, outs))
    out.sum().backward()
    s.record("inputs", x, y)


@scenario
def hooks_that_replace_gradients_on_the_way(s):
    x, y, values, order, out = mixed_graph(s)
    values.grad_fn.register_prehook(lambda grads: (grads[0] * 2, grads[1]))
    values.grad_fn.register_hook(lambda ins, outs: (ins[0] + 1,))
    handle = values.grad_fn.register_hook(lambda ins, outs: (ins[0] * 100,))
    handle.remove()
    out.sum().backward()
    s.record("inputs", x, y)


# GradientEdge


@scenario
def edges_in_place_of_tensors(s):
    x, y, values, order, out = mixed_graph(s)
    edge, middle, leaf = get_gradient_edge(out), get_gradient_edge(values), get_gradient_edge(x)
    s.record("edges", edge, middle, leaf)
    weights = s.randn(3)
    s.record("to a node", torch.autograd.grad(edge, [middle, leaf], weights, retain_graph=True))
    s.record("from a node", torch.autograd.grad([middle], [leaf, y], s.randn(4), retain_graph=True))
    s.record("create_graph", torch.autograd.grad(edge, middle, weights, create_graph=True))
    s.outcome("no gradient given", torch.autograd.grad, edge, [leaf], retain_graph=True)
    s.outcome("backward to a node", torch.autograd.backward, edge, weights, inputs=[middle], retain_graph=True)
    torch.autograd.backward(edge, weights, inputs=[leaf])
    s.record("leaves", x, y)


@scenario
def edges_of_each_output(s):
    class Two(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, a, b):
            s.record("backward", a, b)
            return a * 2 + b * 3

    x = s.randn(2, requires_grad=True)
    a, b = Two.apply(x)
    edges = get_gradient_edge(a), get_gradient_edge(b)
    s.record("edges", [(edge.node is a.grad_fn, edge.output_nr) for edge in edges])
    s.record("second", torch.autograd.grad(edges[1], x, s.randn(2), retain_graph=True))
    s.record("both", torch.autograd.grad(edges, x, (s.randn(2), s.randn(2)), retain_graph=True))
    s.record("to each", torch.autograd.grad((a * b).sum(), edges, retain_graph=True))
    s.raises("no such output", torch.autograd.grad, GradientEdge(a.grad_fn, 2), x, s.randn(2))


@scenario
def edges_outlive_tensors(s):
    x = s.randn(2, requires_grad=True)
    product = make_product(s.Function)
    edge = get_gradient_edge(product.apply(x, x))
    s.record("only the edge", edge.node.name(), torch.autograd.grad(edge, x, s.randn(2), retain_graph=True))
    node, number = edge.node, edge.output_nr
    del edge
    s.outcome("only the node", torch.autograd.grad, GradientEdge(node, number), x, s.randn(2))
    s.raises("used up", torch.autograd.grad, GradientEdge(node, number), x, s.randn(2))


@scenario
def edges_of_views_and_changed_tensors(s):
    x = s.randn(4, requires_grad=True)
    y = make_square(s.Function).apply(x) + 1
    view = y[:2]
    before = get_gradient_edge(y), get_gradient_edge(view)
    make_doubler(s.Function).apply(y)
    after = get_gradient_edge(y), get_gradient_edge(view)
    s.record("names", [edge.node.name() for edge in before + after])
    for edge, tensor in zip(after, (y, view), strict=True):
        s.record("gradient", torch.autograd.grad(edge, x, torch.ones_like(tensor), retain_graph=True))
    s.record("to what was", torch.autograd.grad(y.sum(), before[0], retain_graph=True))


# Saved tensors


@scenario
def saved_on_the_cpu(s):
    def run(pin_memory):
        x = s.randn(3, requires_grad=True)
        with save_on_cpu(pin_memory):
            values, _ = make_sort(s).apply(make_product(s.Function).apply(x, x))
            out = make_square(s.Function).apply(values.exp())
            s.record("saved", values.grad_fn.saved_tensors, out.grad_fn.saved_tensors)
        s.record("gradient", torch.autograd.grad(out.sum(), x, create_graph=True))

    run(False)
    s.outcome("pinned", run, True)


@scenario
def hooks_of_saved_tensors_that_use_functions(s):
    square, identity = make_square(s.Function), make_identity(s.Function)
    x = s.randn(3, requires_grad=True)

    def pack(t):
        s.record("pack", t.requires_grad, torch.is_grad_enabled())
        return identity.apply(t.detach() * 2)

    def unpack(t):
        s.record("unpack", t.grad_fn, torch.is_grad_enabled())
        return identity.apply(t) / 2

    with saved_tensors_hooks(pack, unpack):
        y = square.apply(square.apply(x).sin())
    s.record("gradient", torch.autograd.grad(y.sum(), x, retain_graph=True))
    s.record("again", torch.autograd.grad(y.sum(), x))


@scenario
def hooks_of_saved_tensors_inside_a_function(s):
    class Hooked(s.Function):
        @staticmethod
        def forward(ctx, x):
            with saved_tensors_hooks(lambda t: s.record("pack") or t * 2, lambda t: s.record("unpack") or t / 2):
                ctx.save_for_backward(x)
            with disable_saved_tensors_hooks("not in this forward"):
                return x * x

        @staticmethod
        def backward(ctx, grad):
            with saved_tensors_hooks(lambda t: s.record("pack in backward") or t, lambda t: t):
                return grad * 2 * ctx.saved_tensors[0]

    s.differentiate("call", Hooked.apply, s.randn(2, requires_grad=True))
    with saved_tensors_hooks(lambda t: s.record("outer pack") or t, lambda t: t):
        s.outcome("under hooks", s.differentiate, "call", Hooked.apply, s.randn(2, requires_grad=True))


@scenario
def mutation_allowed(s):
    product, sort = make_product(s.Function), make_sort(s)
    with allow_mutation_on_saved_tensors() as context:
        x = s.randn(4, requires_grad=True)
        a, b = x * 2, s.randn(4)
        out = product.apply(a, b)
        values, order = sort.apply(out)
        with torch.no_grad():
            b.mul_(10)
            a.zero_()
            values.fill_(7)
            order.zero_()
        s.record("seen in the graph", out.grad_fn.saved_tensors, values.grad_fn.saved_tensors)
        (values + out).sum().backward(retain_graph=True)
        s.record("input", x)
        context.clear()
        s.outcome("after clear", lambda: out.sum().backward())
    s.outcome("outside", lambda: out.sum().backward())


@scenario
def mutation_by_a_function(s):
    with allow_mutation_on_saved_tensors():
        x = s.randn(3, requires_grad=True)
        middle = x.exp()
        square = make_square(s.Function).apply(middle)
        doubled = make_doubler(s.Function).apply(middle)
        s.record("doubled", doubled is middle, doubled)
        s.outcome("backward", lambda: torch.autograd.grad((square + doubled).sum(), x))


@scenario
def mutation_allowed_is_not_forever(s):
    square = make_square(s.Function)
    with allow_mutation_on_saved_tensors():
        x = s.randn(3, requires_grad=True)
        y = square.apply(x)
        s.raises("nested", lambda: allow_mutation_on_saved_tensors().__enter__())
    s.outcome("backward outside", lambda: y.sum().backward())
    middle = x * 2
    z = square.apply(middle)
    with torch.no_grad():
        middle.zero_()
    s.raises("mutation outside", lambda: z.sum().backward())


@scenario
def version_counters_raised_by_hand(s):
    product = make_product(s.Function)
    a, b = s.randn(2, requires_grad=True), s.randn(2)
    y = product.apply(a, b)
    increment_version(b)
    s.raises("saved_tensors", lambda: y.grad_fn.saved_tensors)
    s.raises("backward", lambda: y.sum().backward())
    y = product.apply(a, b)
    increment_version([a, y])
    s.raises("a leaf", lambda: y.sum().backward())


# Hooks over several tensors


@scenario
def multi_grad_hooks_on_a_mixed_graph(s):
    for mode in "all", "any":
        x, y, values, order, out = mixed_graph(s)
        unreached = make_square(s.Function).apply(x)
        tensors = (x, values, unreached, y, out)
        handle = register_multi_grad_hook(tensors, lambda grads, mode=mode: s.record(mode, grads), mode=mode)
        out.sum().backward(retain_graph=True)
        s.outcome("grad", torch.autograd.grad, out.sum(), y, retain_graph=True)
        unreached.sum().backward()
        handle.remove()
        out.sum().backward()
    s.raises("no gradient", register_multi_grad_hook, [order], lambda grads: None)
    s.raises("no such mode", register_multi_grad_hook, [x], lambda grads: None, mode="none")


@scenario
def multi_grad_hook_registered_by_a_backward(s):
    class Registers(s.Function):
        @staticmethod
        def forward(ctx, x, others):
            ctx.others = others
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            register_multi_grad_hook(ctx.others, lambda grads: s.record("late", grads))
            return grad * 2, None

    x = s.randn(2, requires_grad=True)
    middle = make_square(s.Function).apply(x)
    Registers.apply(middle, (x, middle)).sum().backward()
    s.record("input", x)


@scenario
def multi_grad_hook_and_threads(s):
    product = make_product(s.Function)
    x, y = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
    outputs = [product.apply(x, y) for _ in range(3)]
    calls = []
    register_multi_grad_hook((x, y), lambda grads: calls.append([g.tolist() for g in grads]))
    for out in outputs:
        thread = threading.Thread(target=lambda out=out: out.sum().backward())
        thread.start()
        thread.join()
    s.record("calls", len(calls), calls)


@scenario
def logging_hooks_on_the_whole_graph(s):
    logger = logging.getLogger("torch.autograd.graph")
    lines = logging.Handler()
    lines.emit = lambda record: s.record("logged", record.getMessage())
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(lines)
    try:
        *_, out = mixed_graph(s)
        remove = torch.autograd.graph._register_logging_hooks_on_whole_graph([out, get_gradient_edge(out)])
        out.sum().backward(retain_graph=True)
        remove()
        out.sum().backward()
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)


@scenario
def what_the_helpers_leave_alive(s):
    x = s.randn(3, requires_grad=True)
    square = make_square(s.Function)

    def call():
        y = square.apply(x)
        edge = get_gradient_edge(y)
        register_multi_grad_hook((y,), lambda grads: edge)
        edge.node.metadata["edge"] = 1
        with save_on_cpu():
            square.apply(y).sum().backward()

    def mutate():
        with allow_mutation_on_saved_tensors():
            square.apply(x * 2).sum().backward()

    s.references("edges and hooks", call, x, square)
    s.references("mutation", mutate, x, square)
