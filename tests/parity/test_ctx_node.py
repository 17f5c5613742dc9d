# SPDX-License-Identifier: BSD-3-Clause
"""ctx as a node of the graph."""

import torch
from harness import scenario


def make_double(s, log=lambda *what: None):
    class Double(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            log("backward", grad)
            return grad * 2

    return Double


def make_sum(s):
    """A Function of any number of inputs, with two outputs."""

    class Sum(s.Function):
        @staticmethod
        def forward(ctx, *inputs):
            total = sum(x for x in inputs if isinstance(x, torch.Tensor))
            return total * 1, total * 2

        @staticmethod
        def backward(ctx, one, two):
            return tuple(one + 2 * two if needed else None for needed in ctx.needs_input_grad)

    return Sum


@scenario
def name_of_the_node(s):
    node = s.keep(make_double(s).apply(s.randn(2, requires_grad=True))).grad_fn
    s.record("name", node.name(), repr(node), str(node))
    s.raises("with an argument", node.name, 1)


@scenario
def name_follows_the_class(s):
    class Outer(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

    class Inner(Outer):
        pass

    Inner.__name__ = "Renamed"
    x = s.randn(2, requires_grad=True)
    for cls in (Outer, Inner, type(Outer)("Made", (Outer,), {}), type(Outer)("Größe", (Outer,), {})):
        s.record(cls.__name__, cls.apply(x))


@scenario
def backward_class_renamed(s):
    Double = make_double(s)
    x = s.randn(2, requires_grad=True)
    Double._backward_cls.__name__ = "BeforeUse"
    s.record("before use", s.keep(Double.apply(x)).grad_fn.name())


@scenario
def next_functions_of_every_kind_of_input(s):
    x = s.randn(2, requires_grad=True)
    a, _ = make_sum(s).apply(x, 1, s.randn(2), "text", None, x * 2, x)
    s.record("next", a.grad_fn.next_functions)
    s.record("accumulators are one", a.grad_fn.next_functions[0][0] is a.grad_fn.next_functions[-1][0])


@scenario
def next_functions_without_grad(s):
    nodes = []

    class Keeps(s.Function):
        @staticmethod
        def forward(ctx, *inputs):
            nodes.append(ctx)
            s.outcome("in forward", lambda: ctx.next_functions)
            return inputs[0] * 2

    x = s.randn(2, requires_grad=True)
    Keeps.apply(x.detach())
    Keeps.apply(x)
    with torch.no_grad():
        Keeps.apply(x)
    for node in nodes:
        s.outcome("afterwards", lambda node=node: (node.next_functions, node.requires_grad, node.name()))


@scenario
def chain_of_functions(s):
    Double = make_double(s)
    y = s.randn(2, requires_grad=True)
    for _ in range(5):
        y = Double.apply(y)
    s.record("chain", y)
    s.record("links", y.grad_fn.next_functions[0][0].next_functions[0][0].name())
    y.sum().backward()


@scenario
def two_outputs_share_a_node(s):
    a, b = make_sum(s).apply(s.randn(2, requires_grad=True))
    s.record("outputs", a, b, a.grad_fn is b.grad_fn, a.output_nr, b.output_nr)
    s.record("metadata", [(list(m.shape), m.dtype, m.device) for m in a.grad_fn._input_metadata])
    (a + b).sum().backward()


@scenario
def requires_grad_of_the_node(s):
    x = s.randn(2, requires_grad=True)
    s.record("requires grad", make_double(s).apply(x).grad_fn.requires_grad)
    s.raises("assign", setattr, make_double(s).apply(x).grad_fn, "requires_grad", True)


@scenario
def sequence_numbers(s):
    Double = make_double(s)
    x = s.randn(2, requires_grad=True)
    first = Double.apply(x)
    numbers = [first.grad_fn._sequence_nr()]
    Double.apply(x.detach())
    with torch.no_grad():
        Double.apply(x)
    s.outcome("failing call", Double.apply, x, x)
    numbers.append((x * 2).grad_fn._sequence_nr())
    numbers.append(s.keep(Double.apply(x)).grad_fn._sequence_nr())
    s.record("relative", [number - numbers[0] for number in numbers])


@scenario
def sequence_number_set(s):
    node = s.keep(make_double(s).apply(s.randn(2, requires_grad=True))).grad_fn
    s.outcome("set", node._set_sequence_nr, 7)
    s.record("now", node._sequence_nr())
    s.raises("text", node._set_sequence_nr, "text")
    s.raises("nothing", node._set_sequence_nr)
    s.outcome("negative", node._set_sequence_nr, -1)
    s.raises("argument to the getter", node._sequence_nr, 1)


@scenario
def sequence_numbers_decide_the_order(s):
    order = []

    def make(name):
        class Named(s.Function):
            @staticmethod
            def forward(ctx, x):
                return x * 2

            @staticmethod
            def backward(ctx, grad):
                order.append(name)
                return grad

        return Named

    x = s.randn(2, requires_grad=True)
    a, b, c = (make(name).apply(x) for name in "abc")
    (a + b + c).sum().backward(retain_graph=True)
    b.grad_fn._set_sequence_nr(c.grad_fn._sequence_nr() + 100)
    (a + b + c).sum().backward()
    s.record("order", order)


@scenario
def node_called_by_hand(s):
    x = s.randn(2, requires_grad=True)
    node = make_double(s, s.record).apply(x).grad_fn
    grad = torch.ones(2, device=s.device)
    s.outcome("call", node, grad)
    s.outcome("apply", node.apply, grad)
    s.outcome("no argument", node)
    s.outcome("two arguments", node, grad, grad)
    s.outcome("None", node, None)
    s.outcome("a number", node, 1)
    s.outcome("keyword", lambda: node(grad=grad))


@scenario(since="2.13")
def methods_of_the_node_called_by_hand(s):
    node = s.keep(make_double(s, s.record).apply(s.randn(2, requires_grad=True))).grad_fn
    grad = torch.ones(2, device=s.device)
    s.outcome("apply_boxed", node.apply_boxed, grad)
    s.outcome("apply_jvp", node.apply_jvp, grad)
    s.record("user function", node._get_user_fn())


@scenario
def gradient_edge(s):
    x = s.randn(2, requires_grad=True)
    a, b = make_sum(s).apply(x)
    for t in (a, b):
        edge = torch.autograd.graph.get_gradient_edge(t)
        s.record("edge", edge.node is t.grad_fn, edge.output_nr)
    (z,) = torch.autograd.grad(
        [torch.autograd.graph.get_gradient_edge(b)],
        [torch.autograd.graph.get_gradient_edge(x)],
        grad_outputs=[torch.ones(2, device=s.device)],
    )
    s.record("gradient", z)


@scenario
def gradient_with_respect_to_an_output(s):
    x = s.randn(2, requires_grad=True)
    a, b = make_sum(s).apply(x)
    c = (a * b).sum()
    s.record("gradients", torch.autograd.grad(c, [a, b, x], retain_graph=True))
    s.record("gradient of one", torch.autograd.grad(c, b))


@scenario
def retained_gradient_of_an_output(s):
    a, b = make_sum(s).apply(s.randn(2, requires_grad=True))
    b.retain_grad()
    (a + b).sum().backward()
    s.record("outputs", a, b)


@scenario(since="2.13")
def node_outlives_its_outputs(s):
    x = s.randn(2, requires_grad=True)
    node = make_double(s).apply(x).grad_fn
    s.record("node", node)
    torch.autograd.backward(torch.autograd.graph.GradientEdge(node, 0), torch.ones(2, device=s.device))
    s.record("gradient", x.grad)


@scenario
def node_outlives_its_graph(s):
    y = make_double(s).apply(s.randn(2, requires_grad=True))
    node = y.grad_fn
    y.sum().backward()
    del y
    s.record("node", node)
    edge = torch.autograd.graph.GradientEdge(node, 0)
    s.outcome("used again", torch.autograd.backward, edge, torch.ones(2, device=s.device))


@scenario
def grad_fn_is_one_object(s):
    y = make_double(s).apply(s.randn(2, requires_grad=True))
    z = y * 2
    s.record("same", y.grad_fn is y.grad_fn, z.grad_fn.next_functions[0][0] is y.grad_fn)


@scenario
def grad_fn_comes_back_with_its_attributes(s):
    y = make_double(s).apply(s.randn(2, requires_grad=True))
    y.grad_fn.marker = [1]
    s.record("marker", y.grad_fn.marker, vars(y.grad_fn))


@scenario
def current_node_during_backward(s):
    class Looks(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            s.record("current", torch._C._current_autograd_node() is ctx, torch._C._current_graph_task_id() >= 0)
            return grad

    Looks.apply(s.randn(2, requires_grad=True)).sum().backward()
    s.record("outside", torch._C._current_autograd_node())


@scenario
def node_is_registered_with_the_abstract_node(s):
    node = make_double(s).apply(s.randn(2, requires_grad=True)).grad_fn
    s.record("is a Node", isinstance(node, torch.autograd.graph.Node))
    s.record("in a set", node in {node}, {node: 1}[node])  # noqa: FURB171 (it is hashed)


@scenario
def deep_graph_is_freed_without_recursion(s):
    Double = make_double(s)
    y = s.randn(2, requires_grad=True)
    for _ in range(20000):
        y = Double.apply(y)
    del y


@scenario
def deep_backward(s):
    class Copy(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad

    x = s.randn(2, requires_grad=True)
    y = x
    for _ in range(5000):
        y = Copy.apply(y)
    y.sum().backward()
    s.record("gradient", x.grad)
