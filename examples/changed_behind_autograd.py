# SPDX-License-Identifier: BSD-3-Clause
"""Find what writes to a tensor that backward needs without autograd knowing of it.

A buffer of weights is filled anew for each batch through numpy, before the backward of the batch before has run. No
error comes of that, only wrong gradients: check_saved finds that the values are not those that forward used.

What it prints is in docs/explain.md.
"""

import sys

import numpy as np
import torch

import torch_ext

buffer = torch.empty(4)


def weights_of(batch):
    np.copyto(buffer.numpy(), np.arange(4, dtype=np.float32) + batch)
    return buffer


def loss_of(parameter, batch):
    return (parameter * weights_of(batch)).sum()


def main():
    parameter = torch.ones(4, requires_grad=True)
    with torch_ext.anomaly.set_detect_anomaly(True, check_saved=True):
        losses = [loss_of(parameter, batch) for batch in range(2)]
        try:
            for loss in losses:
                loss.backward()
        except RuntimeError as error:
            print(error)
            print(error.__notes__[-1])
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
