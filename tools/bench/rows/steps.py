# SPDX-License-Identifier: BSD-3-Clause
"""Training steps of a small network whose layers are Functions."""

from __future__ import annotations

import torch

from .probe import Probe, against_stock


def mlp_step(base):
    """Forward, backward and the optimizer's step of 4 x (affine 32, ReLU), on a batch of 16."""

    class Affine(base):
        @staticmethod
        def forward(ctx, x, weight, bias):
            ctx.save_for_backward(x, weight)
            return torch.addmm(bias, x, weight)

        @staticmethod
        def backward(ctx, grad):
            x, weight = ctx.saved_tensors
            return grad @ weight.t(), x.t() @ grad, grad.sum(0)

    class ReLU(base):
        @staticmethod
        def forward(ctx, x):
            y = x.relu()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, grad):
            (y,) = ctx.saved_tensors
            return grad * (y > 0)

    torch.manual_seed(0)
    layers = [(torch.randn(32, 32) / 6, torch.zeros(32)) for _ in range(4)]
    parameters = [parameter.requires_grad_() for layer in layers for parameter in layer]
    optimizer, batch = torch.optim.SGD(parameters, lr=1e-3), torch.randn(16, 32)

    def step():
        optimizer.zero_grad()
        x = batch
        for weight, bias in layers:
            x = ReLU.apply(Affine.apply(x, weight, bias))
        loss = x.square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return Probe(step)


ROWS = (against_stock("mlp", "training step of a small MLP whose layers are Functions", mlp_step, is_step=True),)
