# SPDX-License-Identifier: BSD-3-Clause
"""Say for each parameter of a model whether a loss reaches it, and if not, which line is why.

The encoder's output is detached, the temperature is read as a number, one layer is frozen and one is forgotten.

What it prints is in docs/explain.md.
"""

import sys

import torch
from torch import nn

from torch_ext.graph import explain, noting


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 8)
        self.norm = nn.LayerNorm(8, bias=False).requires_grad_(False)
        self.head = nn.Linear(8, 1, bias=False)
        self.auxiliary = nn.Linear(8, 1, bias=False)
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        codes = self.encoder(x).detach()
        return self.head(self.norm(codes)) / self.temperature.item()


def main():
    torch.manual_seed(0)
    model = Model()
    with noting(follow=True):
        loss = model(torch.randn(2, 4)).square().mean()
        print(explain(loss, model))
    return 0


if __name__ == "__main__":
    sys.exit(main())
