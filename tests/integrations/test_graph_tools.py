# SPDX-License-Identifier: BSD-3-Clause
"""Other tools of torch that look at a call or drive its graph: counters, trackers, tracers, pipelines."""

import torch
import torch._dynamo  # torch does so on the first use of a dispatch mode: its classes are no leak
import torch.distributed.tensor  # DebugMode does
import torch.fx
from harness import scenario
from harness.small_functions import make_product, make_square
from torch.distributed.pipelining._backward import stage_backward, stage_backward_input, stage_backward_weight
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker


def make_model(s):
    """Two layers, each a matrix product inside a Function."""

    class Matmul(s.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x, weight)
            return x @ weight

        @staticmethod
        def backward(ctx, grad):
            x, weight = ctx.saved_tensors
            return grad @ weight.T, x.T @ grad

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(s.randn(3, 3))
            self.scale = torch.nn.Parameter(s.randn(3))

        def forward(self, x):
            return Matmul.apply(x, self.weight).sin() * self.scale

    return torch.nn.Sequential(Layer(), Layer())


@scenario
def flops_and_modules(s):
    model = make_model(s)
    x = s.randn(2, 3, requires_grad=True)
    with FlopCounterMode(model, display=False) as counter:
        model(x).sum().backward()
    s.record("flops", counter.get_total_flops(), counter.get_flop_counts())

    tracker = ModuleTracker()
    with tracker:
        out = model(x)
        out.register_hook(lambda g: s.record("hook", sorted(tracker.parents), tracker.is_bw))
        out.grad_fn.next_functions[0][0].register_hook(lambda *_: s.record("node", sorted(tracker.parents)))
        out.sum().backward()
    s.record("input", x)


@scenario
def debug_mode(s):
    from torch.utils._debug_mode import DebugMode

    model = make_model(s)
    x = s.randn(2, 3, requires_grad=True)
    for options in {}, {"record_torchfunction": True}, {"record_nn_module": True}:
        with DebugMode(**options) as mode:
            model(x).sum().backward()
        s.record(f"{options}", dict(enumerate(mode.debug_string().splitlines())))


@scenario
def function_modes(s):
    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            s.record("called", getattr(func, "__qualname__", func))
            return func(*args, **kwargs or {})

    square = make_square(s.Function)
    x = s.randn(3, requires_grad=True)
    with Mode():
        y = square.apply(x)
        y.sum().backward()
    s.record("input", x)


@scenario
def default_devices(s):
    class Ones(s.Function):
        @staticmethod
        def forward(ctx, x):
            ones = torch.ones(3)
            s.record("made in forward", ones.device)
            return x * ones.to(x.device) if ones.device.type != "meta" else ones

        @staticmethod
        def backward(ctx, grad):
            s.record("made in backward", torch.zeros(1).device)
            return grad

    x = s.randn(3, requires_grad=True)
    with torch.device("meta"):
        y = Ones.apply(x)
        s.record("meta", y)
        s.outcome("backward", lambda: y.sum().backward())
    torch.set_default_device(s.device)
    try:
        s.differentiate("the default", Ones.apply, x)
    finally:
        torch.set_default_device(None)


@scenario
def traced_by_fx(s):
    square, product = make_square(s.Function), make_product(s.Function)

    class Tolerant(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

    for name, function in {
        "old style": square.apply,
        "new style": lambda x: product.apply(x, x),
        "nothing saved": Tolerant.apply,
    }.items():

        def traced(function=function):
            graph = torch.fx.symbolic_trace(lambda x: function(x) + 1).graph
            return [(node.op, getattr(node.target, "__name__", node.target)) for node in graph.nodes]

        s.outcome(name, traced)


@scenario
def interpreted_by_fx(s):
    class Root(torch.nn.Module):
        call = make_square(s.Function)

        def forward(self, x):
            return self.call.apply(x)

    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(torch.sin, (graph.call_module("square", (x,)),)))
    root = torch.nn.Module()
    root.square = Root()
    module = torch.fx.GraphModule(root, graph)
    s.record("code", module.code)
    s.differentiate("compiled by Python", module, s.randn(3, requires_grad=True))
    s.differentiate("interpreted", torch.fx.Interpreter(module).run, s.randn(3, requires_grad=True))


@scenario
def a_pipelines_backward_in_halves(s):
    model = make_model(s)
    x = s.randn(2, 3, requires_grad=True)
    out = model(x)
    gradients, groups = stage_backward_input([out], [torch.ones_like(out)], [x], model.parameters())
    s.record("of the input", gradients, out)
    s.record("groups", sorted(sorted(node.name() for node in group["intermediates"]) for group in groups))
    stage_backward_weight(model.parameters(), groups)
    s.record("of the weights", [p.grad for p in model.parameters()])

    whole = make_model(s)
    out = whole(x)
    s.record("at once", stage_backward(out.sum(), None, (x,)), [p.grad for p in whole.parameters()])


@scenario
def outputs_detached_in_place(s):
    class Two(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, a, b):
            return a * 2 + b * 3

    x = s.randn(3, requires_grad=True)
    a, b = Two.apply(x)
    node = a.grad_fn
    a.detach_()
    s.record("detached", a, b)
    s.record("the other", torch.autograd.grad(b.sum(), x, retain_graph=True))
    s.record("by its edge", torch.autograd.grad(torch.autograd.graph.GradientEdge(node, 0), x, s.randn(3)))
    s.raises("view", make_square(s.Function).apply(x).view(3, 1).detach_)
