# SPDX-License-Identifier: BSD-3-Clause
"""Memory that grows with each step since somebody keeps the losses: torch_ext.graph.live says who, and which line.

The trainer keeps each loss for its log. The loss has its graph with it: ``loss.item()`` would not.

What it prints is in docs/explain.md.
"""

import torch
from torch import nn

import torch_ext


class Trainer:
    def __init__(self):
        self.model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.losses = []

    def step(self, x, y):
        self.optimizer.zero_grad()
        loss = nn.functional.mse_loss(self.model(x).squeeze(1), y)
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss)

    @torch.no_grad()
    def validate(self, x, y):
        return nn.functional.mse_loss(self.model(x).squeeze(1), y)


def main():
    torch.manual_seed(0)
    trainer, x, y = Trainer(), torch.randn(32, 16), torch.randn(32)
    with torch_ext.graph.noting():
        for _ in range(20):
            trainer.step(x, y)
        after_20 = torch_ext.graph.live()
        for _ in range(80):
            trainer.step(x, y)
        print(torch_ext.graph.live(since=after_20))


if __name__ == "__main__":
    main()
