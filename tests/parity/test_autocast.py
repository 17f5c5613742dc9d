# SPDX-License-Identifier: BSD-3-Clause
"""Autocast around a call, and custom_fwd / custom_bwd."""

import torch
from harness import scenario
from torch.amp import custom_bwd, custom_fwd


def autocast(s, dtype=torch.bfloat16, **options):
    return torch.autocast(s.device.type, dtype=dtype, **options)


def state(s):
    return {
        "enabled": torch.is_autocast_enabled(s.device.type),
        "dtype": torch.get_autocast_dtype(s.device.type),
        "cache": torch.is_autocast_cache_enabled(),
    }


def make_matmul(s, cast=None):
    """x @ y with custom_fwd and custom_bwd."""
    fwd = custom_fwd(device_type=s.device.type, cast_inputs=cast)
    bwd = custom_bwd(device_type=s.device.type)

    class Matmul(s.Function):
        @staticmethod
        @fwd
        def forward(ctx, x, y):
            s.record("forward", x.dtype, y.dtype, state(s))
            ctx.save_for_backward(x, y)
            return x @ y

        @staticmethod
        @bwd
        def backward(ctx, grad):
            x, y = ctx.saved_tensors
            s.record("backward", grad.dtype, x.dtype, state(s))
            return grad @ y.t(), x.t() @ grad

    return Matmul.apply


def matrices(s):
    return s.randn(2, 2, requires_grad=True), s.randn(2, 2, requires_grad=True)


@scenario
def plain_function_under_autocast(s):
    class Matmul(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            s.record("forward", state(s))
            ctx.save_for_backward(x, y)
            return x @ y

        @staticmethod
        def backward(ctx, grad):
            x, y = ctx.saved_tensors
            s.record("backward", grad.dtype, state(s))
            return grad @ y.t().to(grad.dtype), x.t().to(grad.dtype) @ grad

    x, y = matrices(s)
    with autocast(s):
        z = Matmul.apply(x, y)
    s.record("output", z)
    z.sum().backward()
    s.record("inputs", x, y)


@scenario
def custom_fwd_keeps_the_state_for_backward(s):
    x, y = matrices(s)
    with autocast(s):
        z = make_matmul(s)(x, y)
    s.record("output", z)
    z.sum().backward()
    s.record("inputs", x, y)
    s.record("attributes", sorted(vars(z.grad_fn)))


@scenario
def custom_fwd_outside_autocast(s):
    x, y = matrices(s)
    z = make_matmul(s)(x, y)
    with autocast(s):
        z.sum().backward()
    s.record("inputs", x, y)


@scenario
def custom_fwd_casts_its_inputs(s):
    x, y = matrices(s)
    with autocast(s):
        z = make_matmul(s, torch.float32)(x.bfloat16(), y)
    s.record("output", z)
    z.sum().backward()
    s.record("inputs", x, y)
    s.record("cast outside", make_matmul(s, torch.float64)(x, y))


@scenario
def autocast_off_inside_autocast(s):
    x, y = matrices(s)
    with autocast(s), autocast(s, enabled=False):
        s.record("output", make_matmul(s)(x, y))


@scenario
def autocast_inside_forward(s):
    class Matmul(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            with autocast(s):
                return x @ y

        @staticmethod
        def backward(ctx, grad):
            x, y = ctx.saved_tensors
            with autocast(s):
                return grad @ y.t(), x.t() @ grad

    x, y = matrices(s)
    z = Matmul.apply(x, y)
    s.record("output", z)
    z.sum().backward()
    s.record("inputs", x, y)


@scenario
def gradient_in_the_dtype_of_the_forward_output(s):
    class Identity(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            s.record("gradient given", grad)
            return grad.double()

    x = s.randn(2, requires_grad=True)
    Identity.apply(x.bfloat16()).float().sum().backward()
    s.record("input", x)


@scenario
def setup_context_under_autocast(s):
    class Matmul(s.Function):
        @staticmethod
        def forward(x, y):
            return x @ y

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("setup_context", output.dtype, state(s))
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, grad):
            x, y = ctx.saved_tensors
            return (grad @ y.t().to(grad.dtype)).float(), (x.t().to(grad.dtype) @ grad).float()

    x, y = matrices(s)
    with autocast(s):
        s.differentiate("matmul", Matmul.apply, x, y)


@scenario
def grad_scaler(s):
    x, y = matrices(s)
    scaler = torch.amp.GradScaler(s.device.type, init_scale=8.0)
    optimizer = torch.optim.SGD([x, y], lr=0.5)
    with autocast(s):
        loss = make_matmul(s, torch.float32)(x, y).sum()
    scaler.scale(loss).backward()
    s.record("scaled gradients", x.grad, y.grad)
    scaler.step(optimizer)
    scaler.update()
    s.record("parameters", x, y, scaler.get_scale())


@scenario
def custom_fwd_with_a_wrong_device(s):
    s.raises("not a string", custom_fwd, device_type=3)
    s.raises("bwd", custom_bwd, device_type=3)


@scenario
def deprecated_cuda_names(s):
    class Double(s.Function):
        @staticmethod
        @torch.cuda.amp.custom_fwd
        def forward(ctx, x):
            return x * 2

        @staticmethod
        @torch.cuda.amp.custom_bwd
        def backward(ctx, grad):
            return grad * 2

    s.differentiate("double", Double.apply, s.randn(2, requires_grad=True))


@scenario
def custom_fwd_raises_inside(s):
    class Fails(s.Function):
        @staticmethod
        @custom_fwd(device_type="cpu", cast_inputs=torch.float32)
        def forward(ctx, x):
            raise KeyError("forward")

    x = s.randn(2, requires_grad=True)
    with autocast(s):
        s.raises("call", Fails.apply, x)
        s.record("state", state(s))
