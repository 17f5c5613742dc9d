# SPDX-License-Identifier: BSD-3-Clause
"""A fused operator: silu(gate) * up as one Function, by Triton kernels on a GPU and by torch's operators on a CPU.

Written with torch's operators, silu(gate) is a tensor of its own, which is written, read and kept for backward. The
fused forward reads both inputs once and keeps only them; its backward computes the sigmoid again, which is cheaper
than to read it.

It prints::

    gradcheck: True
    output and gradients equal to torch's: True
    kept for backward: 8,388,608 bytes, by torch's operators: 12,582,912
"""

from functools import partial

import torch
from torch.autograd.function import once_differentiable

import torch_ext

try:
    import triton
    import triton.language as tl
except ImportError:  # there is only the CPU's path then
    triton = None

BLOCK = 1024

if triton:

    @triton.jit
    def forward_kernel(gate, up, out, size, BLOCK: tl.constexpr):
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        g = tl.load(gate + at, mask=at < size).to(tl.float32)
        u = tl.load(up + at, mask=at < size).to(tl.float32)
        tl.store(out + at, g * tl.sigmoid(g) * u, mask=at < size)

    @triton.jit
    def backward_kernel(grad, gate, up, grad_gate, grad_up, size, BLOCK: tl.constexpr):
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        d = tl.load(grad + at, mask=at < size).to(tl.float32)
        g = tl.load(gate + at, mask=at < size).to(tl.float32)
        u = tl.load(up + at, mask=at < size).to(tl.float32)
        s = tl.sigmoid(g)
        tl.store(grad_gate + at, d * u * s * (1 + g * (1 - s)), mask=at < size)
        tl.store(grad_up + at, d * g * s, mask=at < size)


def launch(kernel, *tensors):
    """Runs a kernel over contiguous tensors of one size."""
    size = tensors[0].numel()
    kernel[(triton.cdiv(size, BLOCK),)](*tensors, size, BLOCK=BLOCK)


class SwiGLU(torch_ext.Function):
    @staticmethod
    def forward(ctx, gate, up):
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        if not gate.is_cuda:
            return (gate * gate.sigmoid()).mul_(up)
        out = torch.empty_like(gate)
        launch(forward_kernel, gate, up, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        gate, up = ctx.saved_tensors
        grad = grad.contiguous()
        if not gate.is_cuda:
            s = gate.sigmoid()
            return grad * up * s * (1 + gate * (1 - s)), grad * gate * s
        grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
        launch(backward_kernel, grad, gate, up, grad_gate, grad_up)
        return grad_gate, grad_up


def plain(gate, up):
    return torch.nn.functional.silu(gate) * up


def main(device):
    torch.manual_seed(0)
    small = [torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    print("gradcheck:", torch.autograd.gradcheck(SwiGLU.apply, small))

    gate, up = (torch.randn(1024, 1024, device=device, requires_grad=True) for _ in range(2))
    results = []
    for function in SwiGLU.apply, plain:
        y = function(gate.clone(), up.clone())  # results of other operators, as in a model
        results.append((y, *torch.autograd.grad(y.square().sum(), (gate, up), retain_graph=True)))
    print("output and gradients equal to torch's:", all(map(partial(torch.allclose, rtol=1e-4, atol=1e-5), *results)))
    kept = [torch_ext.graph.saved_memory(y).total for y, *_ in results]
    print(f"kept for backward: {kept[0]:,} bytes, by torch's operators: {kept[1]:,}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main("cuda" if triton and torch.cuda.is_available() else "cpu")
