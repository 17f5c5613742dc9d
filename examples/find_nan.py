# SPDX-License-Identifier: BSD-3-Clause
"""Find the operation that turns a training into NaN, with torch_ext's anomaly mode left on.

A small network learns scikit-learn's digits. It divides each hidden unit by its standard deviation over the batch.
In forward EPSILON makes that harmless, even if a unit is silent for a whole batch; but then the square root has no
derivative. The loss is still finite, and without anomaly mode all one sees is that weights are NaN a step later.

It prints the losses, draws a picture, and prints::

    RuntimeError: Function 'SqrtBackward0' returned nan values in its 0th output.
    way from the loss:
      NllLossBackward0
      LogSoftmaxBackward0
      AddmmBackward0
      DivBackward0
      AddBackward0
      SqrtBackward0
    values in forward: finite
      find_nan.py:97, <module>: sys.exit(main())
      find_nan.py:74, main: train(make_model(), (images / 16).float(), labels)
      find_nan.py:59, train: loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
      find_nan.py:44, forward: deviation = centred.square().mean(0).sqrt()
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import torch_ext

EPSILON = 1e-5


class Standardize(nn.Module):
    """Units with a mean of 0 and a variance of 1 over the batch."""

    def forward(self, x):
        centred = x - x.mean(0)
        deviation = centred.square().mean(0).sqrt()
        return centred / (deviation + EPSILON)


def make_model():
    hidden = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), Standardize())
    return nn.Sequential(hidden, nn.Linear(32, 10))


def train(model, images, labels, epochs=20, batch=32):
    """Train. Raises the error of the first backward that returns NaN."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for epoch in range(epochs):
        for chosen in torch.randperm(len(images)).split(batch):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.4f}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/find_nan.svg"), help="picture to write")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
    torch_ext.anomaly.set_detect_anomaly(True)
    try:
        train(make_model(), (images / 16).float(), labels)
    except RuntimeError:
        report = torch_ext.anomaly.last_report()
    else:
        print("no NaN was found")
        return 1
    finally:
        torch_ext.anomaly.set_detect_anomaly(False)

    print(report.error)
    print("way from the loss:", *report.path, sep="\n  ")
    print("values in forward:", report.forward, *([report.born.name] if report.born else []))
    for frame in report.frames:
        if frame.file == __file__:
            print(f"  {os.path.basename(frame.file)}:{frame.line}, {frame.function}: {frame.source}")

    options.output.parent.mkdir(parents=True, exist_ok=True)
    report.draw(options.output)
    print(f"picture: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
