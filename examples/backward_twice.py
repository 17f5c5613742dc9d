# SPDX-License-Identifier: BSD-3-Clause
"""Find where one iteration's graph leads into an earlier one's, with torch_ext's anomaly mode.

A recurrent network is trained on a stream, and its hidden state goes from one batch to the next. The second backward
goes on into the first batch's graph, which the first backward has freed.

What it prints is in docs/explain.md.
"""

import sys

import torch
from torch import nn

import torch_ext


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 8)
        self.head = nn.Linear(8, 1)

    def forward(self, x, hidden):
        hidden = self.cell(x, hidden)
        return self.head(hidden), hidden


def train(model, batches):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    hidden = torch.zeros(2, 8)
    for x in batches:
        out, hidden = model(x, hidden)
        loss = out.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main():
    torch.manual_seed(0)
    with torch_ext.set_detect_anomaly(True, check_nan=False):
        try:
            train(Model(), torch.randn(2, 2, 4))
        except RuntimeError as error:
            print(error.__notes__[-1])
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
