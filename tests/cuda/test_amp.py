# SPDX-License-Identifier: BSD-3-Clause
"""The names of autocast that only CUDA has."""

import torch
from harness import scenario


@scenario
def deprecated_names(s):
    names = (
        (torch.cuda.amp.custom_fwd, torch.cuda.amp.custom_bwd),
        (torch.cuda.amp.custom_fwd(cast_inputs=torch.float32), torch.cuda.amp.custom_bwd),
    )
    for fwd, bwd in names:

        class Matmul(s.Function):
            @staticmethod
            @fwd
            def forward(ctx, x, y):
                s.record("forward", x.dtype, y.dtype)
                ctx.save_for_backward(x, y)
                return x @ y

            @staticmethod
            @bwd
            def backward(ctx, grad):
                x, y = ctx.saved_tensors
                s.record("backward", grad.dtype, x.dtype)
                return grad @ y.t(), x.t() @ grad

        x, y = s.randn(8, 8, requires_grad=True), s.randn(8, 8, requires_grad=True)
        with torch.cuda.amp.autocast():
            z = Matmul.apply(x, y)
        z.float().sum().backward()
        s.record("inputs", z, x, y)
