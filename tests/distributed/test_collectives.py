# SPDX-License-Identifier: BSD-3-Clause
"""Collectives with a gradient between custom Functions: torch.distributed.nn's, and the functional ones."""

import inspect

import torch
import torch.distributed as dist
from harness.small_functions import make_square
from on_ranks import on_ranks
from torch.distributed import _functional_collectives as collectives
from torch.distributed.nn import functional

ROWS, WORLD = 2, 2


def whole(x):
    """An output with room for what all ranks have."""
    return x.new_empty(WORLD * ROWS, *x.shape[1:])


# Each is given what a custom Function returned.
CALLS = {
    "broadcast": lambda x: functional.broadcast(x, 1),
    "gather": lambda x: functional.gather(x, 1),
    "scatter": lambda x: functional.scatter([x, x + 1], 1),
    "reduce": lambda x: functional.reduce(x, 1),
    "reduce_scatter": lambda x: functional.reduce_scatter(torch.empty_like(x), [x, 2 * x]),
    "all_gather": functional.all_gather,
    "_all_gather_base": lambda x: functional._all_gather_base(whole(x), x),
    "all_to_all": lambda x: functional.all_to_all([torch.empty_like(x) for _ in range(WORLD)], [x, 2 * x]),
    "all_to_all_single": lambda x: functional.all_to_all_single(torch.empty_like(x), x),
    "all_reduce": functional.all_reduce,
}
OTHER_OPERATIONS = {
    "reduce": lambda x, op: functional.reduce(x, 0, op),
    "reduce_scatter": lambda x, op: functional.reduce_scatter(torch.empty_like(x), [x, 2 * x], op),
    "all_reduce": functional.all_reduce,
}
FUNCTIONAL = {
    "all_gather_single_autograd": lambda x: collectives.all_gather_single_autograd(x, dist.group.WORLD),
    "reduce_scatter_single_autograd": lambda x: collectives.reduce_scatter_single_autograd(x, "sum", dist.group.WORLD),
    "all_gather_tensor_autograd": lambda x: collectives.all_gather_tensor_autograd(x, 0, dist.group.WORLD),
    "reduce_scatter_tensor_autograd": lambda x: collectives.reduce_scatter_tensor_autograd(
        x, "sum", 0, dist.group.WORLD
    ),
    "all_to_all_single_autograd": lambda x: collectives.all_to_all_single_autograd(x, [1, 1], [1, 1], dist.group.WORLD),
}


def differentiate(s, label, call):
    """Records what ``call`` makes of a custom Function's output, and the gradient back through another one."""
    square = make_square(s.Function)
    x = s.randn(ROWS, 3) * (1 + dist.get_rank())
    x.requires_grad_()

    def run():
        out = call(square.apply(x))
        outs = [collectives.wait_tensor(each) for each in (out if isinstance(out, (tuple, list)) else [out])]
        s.record(f"{label}: outputs", outs)
        (grad,) = torch.autograd.grad(sum(square.apply(each).sum() for each in outs), x, create_graph=True)
        return grad

    grad = s.outcome(label, run)
    if grad is not None and grad.requires_grad:
        s.outcome(f"{label}: double gradient", torch.autograd.grad, grad.sum(), x)


@on_ranks
def each_collective(s):
    for name, call in CALLS.items():
        differentiate(s, name, call)


@on_ranks
def other_operations(s):
    for name, call in OTHER_OPERATIONS.items():
        for op in dist.ReduceOp.AVG, dist.ReduceOp.MAX, dist.ReduceOp.MIN, dist.ReduceOp.PRODUCT:
            differentiate(s, f"{name}, {op}", lambda x, call=call, op=op: call(x, op))


@on_ranks
def functional_collectives(s):
    for name, call in FUNCTIONAL.items():
        if hasattr(collectives, name):  # not every release of torch has all
            differentiate(s, name, call)


@on_ranks
def a_collective_inside_a_function(s):
    """As tensor-parallel layers are written by hand."""

    class Copied(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, grad):
            dist.all_reduce(grad := grad.clone())
            return grad

    class Summed(s.Function):
        @staticmethod
        def forward(ctx, x):
            dist.all_reduce(x := x.clone())
            return x

        @staticmethod
        def backward(ctx, grad):
            return grad

    class Started(s.Function):
        """Starts the sum in forward and waits for it in backward."""

        @staticmethod
        def forward(ctx, x):
            ctx.sum = x.clone()
            ctx.work = dist.all_reduce(ctx.sum, async_op=True)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            ctx.work.wait()
            return grad * ctx.sum

    class SentOn(s.Function):
        """Gives the next rank its input, and gets the gradient back."""

        @staticmethod
        def forward(ctx, x):
            return exchange(x)

        @staticmethod
        def backward(ctx, grad):
            return exchange(grad)

    def exchange(x):
        other, received = 1 - dist.get_rank(), torch.empty_like(x)
        for work in dist.batch_isend_irecv([dist.P2POp(dist.isend, x, other), dist.P2POp(dist.irecv, received, other)]):
            work.wait()
        return received

    for function in Copied, Summed, Started, SentOn:
        differentiate(s, function.__name__, function.apply)


@on_ranks
def a_function_that_raises_on_every_rank(s):
    class Raising(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise ValueError(f"rank {dist.get_rank()}")

    x = s.randn(ROWS, 3, requires_grad=True)
    s.raises("in backward", lambda: functional.all_reduce(Raising.apply(functional.all_reduce(x))).sum().backward())
    s.record("and goes on", functional.all_reduce(x))


def test_every_collective_of_torch_is_called():
    functions = {name for name, each in vars(functional).items() if inspect.isfunction(each)}
    assert functions - {"_not_supported_under_compile", "_deprecated"} == CALLS.keys()
    autograd = {name for name, each in vars(collectives).items() if name.endswith("_autograd") and callable(each)}
    assert {name for name in autograd if not name.startswith("_")} <= FUNCTIONAL.keys()
