# SPDX-License-Identifier: BSD-3-Clause
"""A network's graph as a picture and as a table: torch_ext.graph.draw and summary.

The network has a custom Function, which the picture marks, and each node tells what it keeps for backward.

What it prints is in docs/explain.md.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

import torch_ext


class Swish(torch_ext.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        gate = x.sigmoid()
        return grad * gate * (1 + x * (1 - gate))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(64, 32)
        self.norm = nn.LayerNorm(32)
        self.leave = nn.Linear(32, 10)

    def forward(self, x):
        x = self.enter(x)
        x = x + Swish.apply(self.norm(x))
        return self.leave(x)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/graph.svg"), help="picture to write")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    model, x, labels = Net(), torch.randn(128, 64), torch.randint(10, (128,))
    with torch_ext.graph.noting():
        loss = nn.functional.cross_entropy(model(x), labels)
    print(torch_ext.graph.summary(loss))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    torch_ext.graph.draw(loss, options.output, parameters=model, saved=True)
    print(f"picture: {options.output}")


if __name__ == "__main__":
    main()
