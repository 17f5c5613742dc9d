# SPDX-License-Identifier: BSD-3-Clause
"""What is trained: plain PyTorch, which knows nothing of torch_ext."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Program:
    """Something to train.

    Args:
        make: creates it, always with the same numbers, and returns its step, which returns the loss.
        processes: how many train it together.
    """

    name: str
    title: str
    make: Callable[[], Callable[[], object]]
    processes: int = 1


def training(model, batch):
    """Return the step of ``model`` on one batch: forward, backward and the optimizer's."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step():
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


# --- The demo -------------------------------------------------------------------------------------


def demo():
    """The spiking network of ``make demo``: a Function for each of two layers in each of 25 time steps."""
    from torch_ext_cli.demo.options import parse_options
    from torch_ext_cli.demo.spiking_digits import Digits, Run

    run = Run("", nullcontext, parse_options([]))
    digits = Digits.load(run.options.seed, run.options.device)
    batches = itertools.cycle(torch.arange(len(digits.train_images)).split(run.options.batch))
    return lambda: run.train_step(digits, next(batches))


# --- A residual MLP with a quantiser on each layer ------------------------------------------------


class Quantise(torch.autograd.Function):
    """Rounds to sixteenths; the gradient goes straight through."""

    @staticmethod
    def forward(ctx, x):
        return (x * 16).round() / 16

    @staticmethod
    def backward(ctx, grad):
        return grad


class QuantisedMLP(nn.Module):
    """12 residual layers of 64, whose outputs are quantised."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(12))

    def forward(self, x):
        for layer in self.layers:
            x = x + Quantise.apply(layer(x).relu())
        return x


def quantised_mlp():
    torch.manual_seed(0)
    return training(QuantisedMLP(), torch.randn(32, 64))


def distributed_mlp():
    torch.manual_seed(0)
    return training(nn.parallel.DistributedDataParallel(QuantisedMLP()), torch.randn(32, 64))


# --- Checkpoints over a small transformer ---------------------------------------------------------


class CheckpointedTransformer(nn.Module):
    """4 encoder layers, each of which is computed again in backward: 64 wide, 4 heads, no dropout."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Linear(16, 64)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(64, 4, 128, dropout=0, batch_first=True) for _ in range(4)
        )

    def forward(self, x):
        x = self.embedding(x)
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=True)
        return x


def checkpointed_transformer():
    torch.manual_seed(0)
    return training(CheckpointedTransformer(), torch.randn(8, 16, 16))


PROGRAMS = (
    Program("demo", "the spiking network of make demo", demo),
    Program("quantised_mlp", "a residual MLP, 12 layers of 64 with a straight-through quantiser", quantised_mlp),
    Program(
        "checkpoint",
        "4 transformer layers, 64 wide, each in a reentrant checkpoint",
        checkpointed_transformer,
    ),
    Program("ddp", "quantised_mlp in two processes with DDP over gloo, real time", distributed_mlp, processes=2),
)
