# SPDX-License-Identifier: BSD-3-Clause
"""A custom operator with a double backward: kernels that autograd can't look into, and two Functions around them.

Softplus and its derivatives are computed by numpy here, where a kernel of C++ or CUDA would stand. If backward called
such a kernel itself, the second derivative would be silently wrong, with `once_differentiable` too: that raises an
error only if the gradient that comes in requires grad, and here it doesn't. So backward calls a second Function, whose
own backward has the kernel of the second derivative. A gradient penalty needs that.

It prints::

    gradcheck: True
    gradgradcheck: True
    gradients of the penalty equal to torch's softplus: True
    the same by a backward that calls the kernel: False
"""

import numpy as np
import torch
from torch.autograd.function import once_differentiable

import torch_ext


def kernel(function):
    """Makes an operator of a function of numpy arrays: autograd sees nothing of it."""
    return lambda *tensors: torch.from_numpy(function(*(each.detach().numpy() for each in tensors)))


softplus = kernel(lambda x: np.logaddexp(x, 0))
softplus_backward = kernel(lambda x, grad: grad / (1 + np.exp(-x)))
softplus_double_backward = kernel(lambda x, grad: grad / (2 + np.exp(x) + np.exp(-x)))


class Softplus(torch_ext.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return softplus(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return SoftplusBackward.apply(x, grad)


class SoftplusBackward(torch_ext.Function):
    """The gradient as a function of x and of the gradient that comes in; it is linear in the latter."""

    @staticmethod
    def forward(ctx, x, grad):
        ctx.save_for_backward(x, grad)
        return softplus_backward(x, grad)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_of_grad):
        x, grad = ctx.saved_tensors
        return softplus_double_backward(x, grad) * grad_of_grad, softplus_backward(x, grad_of_grad)


class WrongSoftplus(Softplus):
    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return softplus_backward(x, grad)


def penalty(activation, x, weight):
    """How far the slope of a small network is from 1, as Wasserstein GANs have it in their loss."""
    (slope,) = torch.autograd.grad(activation(x @ weight).sum(), x, create_graph=True)
    return (slope.norm(dim=1) - 1).square().mean()


def main():
    torch.manual_seed(0)
    x, weight = (torch.randn(4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    print("gradcheck:", torch.autograd.gradcheck(Softplus.apply, x))
    print("gradgradcheck:", torch.autograd.gradgradcheck(Softplus.apply, x))
    ours, theirs, wrong = (
        torch.autograd.grad(penalty(activation, x, weight), weight)[0]
        for activation in (Softplus.apply, torch.nn.functional.softplus, WrongSoftplus.apply)
    )
    print("gradients of the penalty equal to torch's softplus:", torch.allclose(ours, theirs))
    print("the same by a backward that calls the kernel:", torch.allclose(wrong, theirs))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
