# SPDX-License-Identifier: BSD-3-Clause
"""Find the line whose result is NaN, at that line.

A model divides each row by its norm. One row of the data is zero, so its result is 0 / 0. The loss leaves out such
rows, so it is finite; but the gradients of the weights are NaN, and then the weights. Backward names the division
too, but only when all of forward and a part of backward have run.

What it prints is in docs/explain.md.
"""

import os
import sys

import torch
from torch import nn

import torch_ext


def normalize(x):
    return x / x.norm(dim=1, keepdim=True)


def loss_of(model, rows):
    directions = normalize(model(rows))
    return directions[rows.any(dim=1)].square().sum()


def main():
    torch.manual_seed(0)
    model = nn.Linear(3, 2, bias=False)
    rows = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    try:
        with torch_ext.anomaly.set_detect_anomaly(True, check_nan="forward"):
            loss_of(model, rows)
    except RuntimeError as error:
        report = torch_ext.anomaly.last_report()
        print(error)
        print(error.__notes__[0])
        line = next(frame for frame in reversed(report.frames) if frame.file == __file__)
        print(f"{os.path.basename(line.file)}:{line.line}, {line.function}: {line.source}")
        return 0
    print("no NaN was found")
    return 1


if __name__ == "__main__":
    sys.exit(main())
