# SPDX-License-Identifier: BSD-3-Clause
"""Find the mistakes of custom autograd Functions with torch_ext.lint: by looking on, and by trying one.

A small layer is trained whose Functions give right gradients, and yet leak, lose a weight's gradient, and are wrong in
a double backward.

What it prints is in docs/explain.md.
"""

import sys
import warnings

import torch

from torch_ext import lint


class Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        exp = x.exp()
        y = torch.log1p(exp)
        ctx.y = y
        ctx.save_for_backward(exp)
        return y

    @staticmethod
    def backward(ctx, grad):
        (exp,) = ctx.saved_tensors
        return grad * exp / (1 + exp)


class ScaleAll(torch.autograd.Function):
    @staticmethod
    def forward(x, weights):
        return x * torch.stack(weights).prod()

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, weights = inputs
        ctx.save_for_backward(torch.stack(weights).prod())

    @staticmethod
    def backward(ctx, grad):
        (scale,) = ctx.saved_tensors
        return grad * scale, None


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 2 * x**2


def train(x, weights):
    loss = Softplus.apply(ScaleAll.apply(x, weights)).sum()
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    (loss + slope.square().sum()).backward()


def main():
    torch.manual_seed(0)
    x = torch.randn(3, requires_grad=True)
    weights = [torch.tensor(2.0, requires_grad=True), torch.tensor(0.5, requires_grad=True)]
    with warnings.catch_warnings(), lint.watch() as watch:
        warnings.simplefilter("ignore", lint.FunctionWarning)
        train(x, weights)
    for finding in watch.findings:
        print(finding)
    findings = lint.check(Cube, x)
    for finding in findings:
        print(finding)
    return 0 if watch.findings and findings else 1


if __name__ == "__main__":
    sys.exit(main())
