# SPDX-License-Identifier: BSD-3-Clause
"""An implicit-function layer: the z with z = tanh(z W + x), whatever way led to it, with derivatives of both modes.

The implicit function theorem gives the derivatives from z alone. Forward mode (`jvp`) solves dz = D (dz W + dx + z dW)
where D is tanh's derivative at z, backward the transposed equation; both are fixed points again. So nothing is kept
of the iterations, while torch's operators keep each of them. Backward consists of differentiable operators, and so
double backward works too.

It prints::

    gradcheck, backward and forward mode: True
    gradgradcheck: True
    gradients equal to those through all iterations: True
    kept for backward: 1,380 bytes, through all iterations: 129,380
    a directional derivative by jvp, the same by backward: True
"""

import torch
from torch.autograd import forward_ad

import torch_ext

STEPS = 100


def solve(step, z):
    """The fixed point of ``step``, a contraction."""
    for _ in range(STEPS):
        z = step(z)
    return z


class FixedPoint(torch_ext.Function):
    @staticmethod
    def forward(x, weight):
        return solve(lambda z: torch.tanh(z @ weight + x), torch.zeros_like(x))

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, weight = inputs
        ctx.save_for_backward(weight, output)
        ctx.save_for_forward(weight, output)

    @staticmethod
    def backward(ctx, grad):
        weight, z = ctx.saved_tensors
        slope = 1 - z * z
        grad = solve(lambda u: grad + (u * slope) @ weight.T, grad) * slope
        return grad, z.T @ grad

    @staticmethod
    def jvp(ctx, dx, dweight):
        weight, z = ctx.saved_tensors
        slope = 1 - z * z
        outer = (0 if dx is None else dx) + (0 if dweight is None else z @ dweight)
        return solve(lambda dz: slope * (dz @ weight + outer), torch.zeros_like(z))


def unrolled(x, weight):
    return solve(lambda z: torch.tanh(z @ weight + x), torch.zeros_like(x))


def main():
    torch.manual_seed(0)
    x = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    weight = (torch.randn(5, 5, dtype=torch.float64) * 0.2).requires_grad_()
    inputs = x, weight
    passed = torch.autograd.gradcheck(FixedPoint.apply, inputs, check_forward_ad=True)
    print("gradcheck, backward and forward mode:", passed)
    print("gradgradcheck:", torch.autograd.gradgradcheck(FixedPoint.apply, inputs))

    ours, theirs = (
        torch.autograd.grad(function(*inputs).square().sum(), inputs) for function in (FixedPoint.apply, unrolled)
    )
    print("gradients equal to those through all iterations:", all(map(torch.allclose, ours, theirs)))
    kept = [
        torch_ext.graph.saved_memory(function(torch.randn(64, 5, requires_grad=True).clone(), weight.float())).total
        for function in (FixedPoint.apply, unrolled)
    ]
    print(f"kept for backward: {kept[0]:,} bytes, through all iterations: {kept[1]:,}")

    direction, grad = torch.randn_like(x), torch.randn_like(x)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(FixedPoint.apply(forward_ad.make_dual(x.detach(), direction), weight)).tangent
    (gradient,) = torch.autograd.grad(FixedPoint.apply(*inputs), x, grad)
    same = torch.allclose((tangent * grad).sum(), (direction * gradient).sum())
    print("a directional derivative by jvp, the same by backward:", same)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
