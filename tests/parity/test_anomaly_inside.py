# SPDX-License-Identifier: BSD-3-Clause
"""Anomaly mode inside checkpoint, functorch transforms, preserved fx node meta and compiled code."""

import pytest
import torch
from harness import scenario
from harness.anomaly_text import attempt, compare_but_for_leaks, under
from harness.small_functions import make_product
from torch.fx import traceback as fx_traceback
from torch.utils.checkpoint import checkpoint


def make_nan(base):
    class Nan(base):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, grad):
            return grad * float("nan")

    return Nan


def both(s):
    """A function of x that fails in a node of torch, and one that fails in a Function."""
    return {"torch": lambda x: x.sqrt() * 0, "function": make_nan(s.Function).apply}


def checkpoint_with_reentry(s):
    x = torch.zeros(2, device=s.device, requires_grad=True)
    for name, f in both(s).items():
        under(s, name, lambda: (checkpoint(f, x * 1, use_reentrant=True) * 3).sum().backward())


@scenario
def checkpoint_without_reentry(s):
    x = torch.zeros(2, device=s.device, requires_grad=True)
    for name, f in both(s).items():
        under(s, name, lambda: (checkpoint(f, x * 1, use_reentrant=False) * 3).sum().backward())


def backward_within_a_backward(s):
    failing = both(s)

    class Inner(s.Function):
        @staticmethod
        def forward(ctx, x, name):
            ctx.which = name
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            with torch.enable_grad():
                x = torch.zeros(2, device=s.device, requires_grad=True)
                failing[ctx.which](x).sum().backward()
            return grad, None

    x = s.randn(2, requires_grad=True)
    for name in failing:
        under(s, name, lambda: Inner.apply(x, name).sum().backward())


def a_backward_that_recovers(s):
    """An inner failure that backward handles itself is not a failure of the outer one."""
    failing = both(s)["torch"]

    class Recovers(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            with torch.enable_grad():
                attempt(s, "inner", failing(torch.zeros(1, device=s.device, requires_grad=True)).sum().backward)
            return grad

    x = s.randn(2, requires_grad=True)
    under(s, "outer", lambda: Recovers.apply(x).sum().backward())
    s.record("input", x)


@pytest.mark.parametrize("body", [checkpoint_with_reentry, backward_within_a_backward, a_backward_that_recovers])
def test_inner_backward(body, variant, device):
    compare_but_for_leaks(body, variant, device)


@scenario
def functorch_grad(s):
    for name, f in both(s).items():
        under(s, name, lambda: torch.func.grad(lambda x: f(x).sum())(torch.zeros(2, device=s.device)))
        under(s, f"{name}, twice", lambda: torch.func.hessian(lambda x: f(x).sum())(torch.zeros(2, device=s.device)))


@scenario
def functorch_vmap(s):
    x = torch.zeros(3, 2, device=s.device, requires_grad=True)
    for name, f in both(s).items():
        under(s, name, lambda: torch.vmap(f)(x).sum().backward())
        under(s, f"{name}, grad inside", lambda: torch.vmap(torch.func.grad(lambda x: f(x).sum()))(x.detach()))


@scenario
def functorch_jacobians_of_what_is_finite(s):
    product = make_product(s.Function).apply
    x, y = s.randn(2), s.randn(2)
    with s.set_detect_anomaly(True):
        for transform in (torch.func.jacrev, torch.func.jacfwd):
            s.record(transform.__name__, transform(product)(x, y))


@scenario
def preserved_node_meta(s):
    graph = torch.fx.Graph()
    node = graph.placeholder("x")
    node.meta["stack_trace"] = '  File "model.py", line 7, in forward\n    return x\n'
    x = torch.zeros(2, device=s.device, requires_grad=True)
    for name, f in both(s).items():

        def body():
            with fx_traceback.preserve_node_meta(), fx_traceback.set_current_meta(node):
                y = f(x)
            s.record("traceback", list(y.grad_fn.metadata["traceback_"]), type(y.grad_fn.metadata["traceback_"]))
            y.sum().backward()

        under(s, name, body)


@scenario
def preserved_node_meta_without_a_stack(s):
    x = torch.zeros(2, device=s.device, requires_grad=True)

    def body():
        with fx_traceback.preserve_node_meta():
            y = x.sqrt() * 0
        s.record("traceback", list(y.grad_fn.metadata["traceback_"]))
        y.sum().backward()

    under(s, "backward", body)


def compiled_code(s):
    x = torch.zeros(2, device=s.device, requires_grad=True)
    for backend in ("eager", "aot_eager"):
        for name, f in both(s).items():
            torch._dynamo.reset()
            compiled = torch.compile(f, backend=backend)
            under(s, f"{name}, {backend}", lambda: compiled(x).sum().backward())
    torch._dynamo.reset()


def compiled_before_anomaly_mode(s):
    x = torch.zeros(2, device=s.device, requires_grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: x.sqrt() * 0, backend="aot_eager")
    compiled(x)
    under(s, "backward", lambda: compiled(x).sum().backward())
    torch._dynamo.reset()


@pytest.mark.parametrize("body", [compiled_code, compiled_before_anomaly_mode])
def test_compiled(body, variant, device):
    # What the compiler caches differs from run to run.
    compare_but_for_leaks(body, variant, device, may_keep=True)


@scenario
def saved_tensors_on_cpu(s):
    x = torch.zeros(2, device=s.device, requires_grad=True)
    for name, f in both(s).items():

        def body():
            with torch.autograd.graph.save_on_cpu():
                y = f(x)
            y.sum().backward()

        under(s, name, body)


@scenario
def modules_with_hooks(s):
    layer = torch.nn.Linear(2, 2).to(s.device)
    layer.register_full_backward_hook(lambda module, into, outof: s.record("hook", into, outof))
    x = torch.zeros(1, 2, device=s.device)
    under(s, "backward", lambda: (layer(x).square().sum() * 0).sqrt().backward())
