# SPDX-License-Identifier: BSD-3-Clause
"""Models whose layers are custom Functions, and their training."""

import torch
import torch.distributed as dist
from torch import nn


def make_affine(base):
    """x @ weight + bias with ``setup_context``, as a fused layer would be written."""

    class Affine(base):
        @staticmethod
        def forward(x, weight, bias):
            return torch.addmm(bias, x, weight)

        @staticmethod
        def setup_context(ctx, inputs, output):
            x, weight, _ = inputs
            ctx.save_for_backward(x, weight)

        @staticmethod
        def backward(ctx, grad):
            x, weight = ctx.saved_tensors
            needed = ctx.needs_input_grad
            return (
                grad @ weight.t() if needed[0] else None,
                x.t() @ grad if needed[1] else None,
                grad.sum(0) if needed[2] else None,
            )

    return Affine


def make_swish(base):
    """x * sigmoid(x), which keeps its input alone and computes the rest again."""

    class Swish(base):
        @staticmethod
        def forward(ctx, x, beta=1.0):
            ctx.beta = beta
            ctx.save_for_backward(x)
            return x * (beta * x).sigmoid()

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            gate = (ctx.beta * x).sigmoid()
            return grad * (gate + ctx.beta * x * gate * (1 - gate)), None

    return Swish


class Layer(nn.Module):
    """An affine map and a Swish, both custom Functions."""

    def __init__(self, s, features=4):
        super().__init__()
        self.affine, self.swish = make_affine(s.Function), make_swish(s.Function)
        self.weight = nn.Parameter(s.randn(features, features))
        self.bias = nn.Parameter(s.randn(features))

    def forward(self, x):
        return self.swish.apply(self.affine.apply(x, self.weight, self.bias), 1.5)


def make_net(s, layers=2, features=4):
    """Layers of custom Functions, with the same values on each rank."""
    return nn.Sequential(*(Layer(s, features) for _ in range(layers)))


def rows_of_each_rank(s, batches=3, rows=3, features=4):
    """Batches of data, other ones on each rank."""
    return [s.randn(rows, features) * (1 + dist.get_rank()) for _ in range(batches)]


def local(tensor):
    """What this rank has of ``tensor``, which may be distributed."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def train(s, label, model, batches, loss_of=None, optimizer=None):
    """Records losses, gradients and parameters of a step for each of ``batches``."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step, batch in enumerate(batches):
        optimizer.zero_grad()
        out = model(batch)
        loss = out.square().mean() if loss_of is None else loss_of(out)
        s.record(f"{label}, step {step}: output", type(out.grad_fn).__name__, local(out).detach())
        loss.backward()
        s.record("loss", local(loss).detach())
        record_gradients(s, model)
        optimizer.step()
        s.record("parameters", [local(each).detach() for each in model.parameters()])


def record_gradients(s, model):
    """Records the gradient that each parameter has on this rank."""
    gradients = {name: each.grad for name, each in model.named_parameters()}
    s.record("gradients", {name: grad if grad is None else local(grad) for name, grad in gradients.items()})
