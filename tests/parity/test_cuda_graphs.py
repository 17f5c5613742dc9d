# SPDX-License-Identifier: BSD-3-Clause
"""CUDA graphs: captured Functions, and the ``Graphed`` that ``torch.cuda.make_graphed_callables`` creates.

On a GPU (``--device cuda``) the graphs are real. Elsewhere stand-ins capture nothing, and what is replayed stays
as it was: then only ``Graphed``'s own calls are tested.
"""

import contextlib
from unittest import mock

import torch
from harness import scenario
from harness.small_functions import make_product, make_square


class NoGraph:
    def replay(self):
        pass


@contextlib.contextmanager
def graphs(s):
    """A context in which ``torch.cuda.graph`` and what goes with it can be called."""
    if s.device.type == "cuda":
        yield
        return
    stand_ins = {
        "CUDAGraph": NoGraph,
        "Stream": lambda: None,
        "graph": lambda graph, **options: contextlib.nullcontext(),
        "stream": contextlib.nullcontext,
        "synchronize": lambda: None,
    }
    # Without a capture, what would only be allocated needs values.
    with mock.patch.multiple(torch.cuda, **stand_ins), mock.patch.object(torch, "empty_like", torch.ones_like):
        yield


def graphed(s, callables, sample, **options):
    return torch.cuda.make_graphed_callables(
        callables, sample, pool=None if s.device.type == "cuda" else (0, 0), **options
    )


def fresh(s, *tensors):
    return [s.randn(*t.shape, requires_grad=t.requires_grad) for t in tensors]


@scenario
def graphed_function(s):
    square, product = make_square(s.Function), make_product(s.Function)

    def body(x, y):
        return product.apply(square.apply(x), y), y.sin()

    with graphs(s):
        sample = s.randn(3, requires_grad=True), s.randn(3)
        call = graphed(s, body, sample)
        for _ in range(2):
            x, y = fresh(s, *sample)
            out, other = call(x, y)
            s.record("outputs", out, other)
            out.sum().backward()
            s.record("input", x)
            s.outcome("double backward", lambda: torch.autograd.grad(call(x, y)[0].sum(), x, create_graph=True))
        s.record("its class", type(out.grad_fn).__name__, out.grad_fn._forward_cls.__mro__[1].__name__)


@scenario
def graphed_module(s):
    class Scale(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.product = make_product(s.Function)
            self.weight = torch.nn.Parameter(s.randn(3))
            self.frozen = torch.nn.Parameter(s.randn(3), requires_grad=False)

        def forward(self, x):
            return {"scaled": self.product.apply(x, self.weight) + self.frozen}

    with graphs(s):
        module = graphed(s, Scale(), (s.randn(3, requires_grad=True),))
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for step in range(3):
            optimizer.zero_grad(set_to_none=True)
            x = s.randn(3, requires_grad=True)
            out = module(x)["scaled"]
            out.sum().backward()
            s.record(f"step {step}", out, x, module.weight)
            with torch.no_grad():
                optimizer.step()
        s.record("evaluation", module.eval()(x))
        module.train()
        with torch.no_grad():
            s.record("no_grad", module(x))


@scenario
def several_graphed_in_one_pool(s):
    square, product = make_square(s.Function), make_product(s.Function)
    with graphs(s):
        sample = s.randn(3, requires_grad=True)
        first, second = graphed(s, (square.apply, lambda x: product.apply(x, x)), ((sample,), (sample,)))
        x = s.randn(3, requires_grad=True)
        out = second(first(x))
        out.sum().backward()
        s.record("both", out, x)
        unused = s.randn(3, requires_grad=True)
        sample = s.randn(3, requires_grad=True), unused
        s.raises("unused input", graphed, s, lambda x, y: square.apply(x), sample)
        call = graphed(s, lambda x, y: square.apply(x), sample, allow_unused_input=True)
        s.record("allowed", torch.autograd.grad(call(x, unused).sum(), (x, unused), allow_unused=True))


@scenario
def captured_by_hand(s):
    square = make_square(s.Function)
    with graphs(s):
        x = s.randn(3, requires_grad=True)
        torch.cuda.synchronize()
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(2):
                square.apply(x).sum().backward()
                x.grad = None
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = square.apply(x)
            out.sum().backward()
        for _ in range(2):
            with torch.no_grad():
                x.copy_(s.randn(3))
            graph.replay()
            torch.cuda.synchronize()
            s.record("replayed", out, x)


@scenario
def graphed_under_hooks_and_anomaly_mode(s):
    square = make_square(s.Function)
    with graphs(s):
        call = graphed(s, square.apply, (s.randn(3, requires_grad=True),))
        x = s.randn(3, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: s.record("pack") or t, lambda t: t):
            out = call(x)
        out.grad_fn.register_hook(lambda ins, outs: s.record("hook", ins, outs))
        out.sum().backward()
        with s.detect_anomaly(check_nan=False):
            out = call(x)
            s.record("metadata", sorted(out.grad_fn.metadata))
            out.sum().backward()
        s.record("input", x)
