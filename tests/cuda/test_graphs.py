# SPDX-License-Identifier: BSD-3-Clause
"""CUDA graphs that hold forward, backward and the optimizer's step of custom Functions."""

import torch
import torch.utils.checkpoint
from harness import scenario
from harness.registering import hooks_of
from harness.small_functions import make_identity, make_product, make_square


def captured(body, warm_up=3):
    """A graph of ``body()``, and what it returned while it was captured."""
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(warm_up):
            body()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = body()
    return graph, result


def replay(graph, values, *into):
    """Run the graph on new values of its inputs."""
    with torch.no_grad():
        for tensor in into:
            tensor.copy_(values(*tensor.shape))
    graph.replay()
    torch.cuda.synchronize()


class Layer(torch.nn.Module):
    def __init__(self, s):
        super().__init__()
        self.weight = torch.nn.Parameter(s.randn(8, 8))
        self.bias = torch.nn.Parameter(s.randn(8))

        class Affine(s.Function):
            @staticmethod
            def forward(ctx, x, weight, bias):
                ctx.save_for_backward(x, weight)
                return torch.addmm(bias, x, weight)

            @staticmethod
            def backward(ctx, grad):
                x, weight = ctx.saved_tensors
                return grad @ weight.t(), x.t() @ grad, grad.sum(0)

        self.affine = Affine.apply

    def forward(self, x):
        return self.affine(x, self.weight, self.bias).tanh()


@scenario
def a_training_step(s):
    model = torch.nn.Sequential(*(Layer(s) for _ in range(3))).to(s.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, target = s.randn(4, 8), s.randn(4, 8)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    graph, loss = captured(step)
    for number in range(3):
        replay(graph, s.randn, x, target)
        s.record(f"step {number}", loss, list(model.parameters()))


@scenario
def gradients_and_double_gradients(s):
    x = s.randn(3, requires_grad=True)
    square, product = make_square(s.Function).apply, make_product(s.Function).apply

    def body():
        (grad,) = torch.autograd.grad(product(square(x), x).sum(), x, create_graph=True)
        (double,) = torch.autograd.grad(square(grad).sum(), x)
        return grad.detach(), double

    graph, results = captured(body)
    for _ in range(2):
        replay(graph, s.randn, x)
        s.record("gradients", results)


@scenario
def python_runs_at_capture_and_not_at_replay(s):
    hooks, calls = hooks_of(s), []
    x = s.randn(3, requires_grad=True)

    class Notes(s.Function):
        @staticmethod
        def forward(ctx, x):
            calls.append("forward")
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):
            calls.append("backward")
            (x,) = ctx.saved_tensors
            return 2 * x * grad

    def body():
        x.grad = None
        y = Notes.apply(x)
        hooks.register_tensor_hook(y, lambda grad: calls.append("tensor hook") or grad * 3)
        hooks.register_node_prehook(y.grad_fn, lambda outs: calls.append("prehook"))
        hooks.register_node_posthook(y.grad_fn, lambda ins, outs: calls.append("posthook"))
        y.sum().backward()
        return y.detach()

    hooks.register_post_accumulate_grad_hook(x, lambda x: calls.append("accumulated"))
    graph, y = captured(body)
    s.record("captured", calls)
    calls.clear()
    for _ in range(2):
        replay(graph, s.randn, x)
        s.record("replayed", y, x.grad, calls)


@scenario
def memory_stays_where_it_is(s):
    x = s.randn(3, requires_grad=True)
    seen = []

    def body():
        y = make_square(s.Function).apply(x)
        seen.append(y.data_ptr())
        (grad,) = torch.autograd.grad(y.sum(), x)
        return y.detach(), grad

    graph, (y, grad) = captured(body)
    places = y.data_ptr(), grad.data_ptr()
    for _ in range(2):
        replay(graph, s.randn, x)
        s.record("same places", (y.data_ptr(), grad.data_ptr()) == places, y.data_ptr() == seen[-1], y, grad)
    graph.reset()
    s.record("after reset", y, grad)


@scenario
def changes_in_place_and_views(s):
    class Scale(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x.mul_(3)

        @staticmethod
        def backward(ctx, grad):
            return grad * 3

    x = s.randn(2, 3, requires_grad=True)

    def body():
        a = x.clone()
        Scale.apply(a[0])
        y = make_identity(s.Function).apply(a.t())
        return y.detach(), torch.autograd.grad(y.sum(), x)[0]

    graph, results = captured(body)
    replay(graph, s.randn, x)
    s.record("results", results)


@scenario
def saved_tensors_hooks_and_checkpoint(s):
    x = s.randn(3, requires_grad=True)
    square, calls = make_square(s.Function).apply, []

    def body():
        with torch.autograd.graph.saved_tensors_hooks(lambda t: calls.append("pack") or t * 2, lambda t: t / 2):
            y = square(x)
        y = torch.utils.checkpoint.checkpoint(square, y, use_reentrant=False, preserve_rng_state=False)
        return torch.autograd.grad(y.sum(), x)[0]

    graph, grad = captured(body)
    s.record("packed", len(calls))
    for _ in range(2):
        replay(graph, s.randn, x)
        s.record("gradient", grad)


@scenario
def branches_on_streams_inside_a_graph(s):
    x = s.randn(3, requires_grad=True)
    square, product = make_square(s.Function).apply, make_product(s.Function).apply
    side = torch.cuda.Stream()

    def body():
        around = torch.cuda.current_stream()
        side.wait_stream(around)
        with torch.cuda.stream(side):
            a = square(x)
        b = product(x, x)
        around.wait_stream(side)
        return torch.autograd.grad(product(a, b).sum(), x)[0]

    graph, grad = captured(body)
    for _ in range(2):
        replay(graph, s.randn, x)
        s.record("gradient", grad)


@scenario
def error_while_capturing(s):
    """Python's own error, after which the capture ends and the next one works."""

    class Fails(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise KeyError("backward")

    x = s.randn(3, requires_grad=True)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()

    def capture():
        with torch.cuda.graph(graph):
            Fails.apply(x).sum().backward()

    s.raises("capture", capture)
    graph, grad = captured(lambda: torch.autograd.grad(make_square(s.Function).apply(x).sum(), x)[0])
    replay(graph, s.randn, x)
    s.record("gradient", grad)


@scenario
def graphed_callables_under_autocast(s):
    model = torch.nn.Sequential(Layer(s), Layer(s)).to(s.device)
    sample = (s.randn(4, 8, requires_grad=True),)
    with torch.autocast("cuda", dtype=torch.float16, cache_enabled=False):
        graphed = torch.cuda.make_graphed_callables(model, sample)
        for _ in range(2):
            x = s.randn(4, 8, requires_grad=True)
            y = graphed(x)
            s.record("output", y)
            y.float().sum().backward()
            s.record("gradients", x.grad, [p.grad for p in model.parameters()])


@scenario
def graphed_callables_among_others(s):
    """Graphed and plain Functions in one graph, with hooks between them."""
    square = make_square(s.Function).apply
    graphed = torch.cuda.make_graphed_callables(make_square(s.Function).apply, (s.randn(3, requires_grad=True),))
    for _ in range(2):
        x = s.randn(3, requires_grad=True)
        y = graphed(square(x))
        y.register_hook(lambda grad: s.record("between", grad) or grad * 2)
        square(y).sum().backward()
        s.record("input", x, y.grad_fn.name())
