# SPDX-License-Identifier: BSD-3-Clause
"""Find the lines that changed a tensor that backward needs, with torch_ext's anomaly mode.

A recurrent cell writes each state into one buffer. What a step has read from the buffer is changed by the next step's
assignment: the buffer has one count of changes for all its rows.

What it prints is in docs/explain.md.
"""

import sys

import torch

import torch_ext


def run(inputs, weight):
    states = torch.zeros(len(inputs) + 1, weight.shape[0])
    for step, row in enumerate(inputs):
        states[step + 1] = torch.tanh(row + states[step] @ weight)
    return states[-1].sum()


def main():
    torch.manual_seed(0)
    weight = torch.randn(4, 4, requires_grad=True)
    with torch_ext.set_detect_anomaly(True, check_nan=False):
        loss = run(torch.randn(3, 4), weight)
        try:
            loss.backward()
        except RuntimeError as error:
            print(error.__notes__[-1])
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
