# SPDX-License-Identifier: BSD-3-Clause
"""Autocast of a device: half precision, also under the CPU's autocast, and scaled gradients."""

import torch
from harness import scenario
from harness.small_functions import make_square
from torch.amp import custom_bwd, custom_fwd


def state(s):
    kinds = (s.device.type, "cpu")
    return [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds]


def make_matmul(s, fwd, bwd):
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


def of_torch_amp(s, **options):
    return make_matmul(s, custom_fwd(device_type=s.device.type, **options), custom_bwd(device_type=s.device.type))


def matrices(s, size=8):
    return s.randn(size, size, requires_grad=True), s.randn(size, size, requires_grad=True)


@scenario
def every_dtype(s):
    for dtype in (torch.float16, torch.bfloat16):
        for cast in (None, torch.float32, dtype):
            matmul = of_torch_amp(s, cast_inputs=cast)
            x, y = matrices(s)
            with torch.autocast(s.device.type, dtype=dtype):
                z = matmul(x, y)
            s.record("output", z)
            z.float().sum().backward()
            s.record("inputs", x, y)


@scenario
def backward_inside_autocast(s):
    x, y = matrices(s)
    matmul = of_torch_amp(s)
    with torch.autocast(s.device.type, dtype=torch.float16):
        matmul(matmul(x, y), y).float().sum().backward()
    s.record("inputs", x, y)


@scenario
def autocast_of_both_devices(s):
    x, y = matrices(s)
    with torch.autocast(s.device.type, dtype=torch.float16), torch.autocast("cpu", dtype=torch.bfloat16):
        z = of_torch_amp(s)(x, y)
        on_cpu = make_matmul(s, custom_fwd(device_type="cpu"), custom_bwd(device_type="cpu"))(x.cpu(), y.cpu())
    s.record("outputs", z, on_cpu)
    z.float().sum().backward()
    on_cpu.float().sum().backward()
    s.record("inputs", x, y)


@scenario
def decorated_for_the_other_device(s):
    x, y = matrices(s)
    matmul = make_matmul(s, custom_fwd(device_type="cpu", cast_inputs=torch.float64), custom_bwd(device_type="cpu"))
    with torch.autocast(s.device.type, dtype=torch.float16):
        z = matmul(x, y)
    s.record("output", z)
    s.outcome("backward", lambda: z.float().sum().backward())
    s.record("inputs", x, y)


@scenario
def weights_cast_once(s):
    """Autocast keeps the cast of a leaf and uses it again, inside Functions and outside."""
    x, weight = matrices(s)
    matmul = of_torch_amp(s)
    for cache in (True, False):
        with torch.autocast(s.device.type, dtype=torch.float16, cache_enabled=cache):
            z = torch.mm(matmul(x, weight), weight) + torch.mm(x, weight)
        z.float().sum().backward()
        s.record("inputs", z, x, weight)


@scenario
def training_with_scaled_gradients(s):
    matmul = of_torch_amp(s)
    x, weight = matrices(s)
    weight_state = torch.nn.Parameter(weight.detach())
    optimizer = torch.optim.SGD([weight_state], lr=0.01)
    scaler = torch.amp.GradScaler(s.device.type, init_scale=2.0**10, growth_interval=2)
    for step in range(4):
        optimizer.zero_grad()
        with torch.autocast(s.device.type, dtype=torch.float16):
            loss = make_square(s.Function).apply(matmul(x, weight_state)).float().mean()
        # In the second step the gradients overflow, so it is skipped.
        scaler.scale(loss * (2.0**30 if step == 1 else 1.0)).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_([weight_state], 1.0)
        scaler.step(optimizer)
        scaler.update()
        s.record(f"step {step}", loss, weight_state, scaler.get_scale())


@scenario
def double_backward_under_autocast(s):
    x, y = matrices(s)
    matmul = of_torch_amp(s)
    with torch.autocast(s.device.type, dtype=torch.float16):
        z = matmul(x, y).float().square().sum()
    grads = torch.autograd.grad(z, (x, y), create_graph=True)
    sum(grad.sum() for grad in grads).backward()
    s.record("inputs", grads, x, y)
