# SPDX-License-Identifier: BSD-3-Clause
"""Functions whose forward and backward launch Triton kernels."""

import torch
import triton
import triton.language as tl
from harness import scenario
from harness.registering import hooks_of

BLOCK = 128


@triton.jit
def _swish(x, out, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + at, mask=at < size).to(tl.float32)
    tl.store(out + at, values * tl.sigmoid(values), mask=at < size)


@triton.jit
def _swish_gradient(x, grad, out, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + at, mask=at < size).to(tl.float32)
    given = tl.load(grad + at, mask=at < size).to(tl.float32)
    gate = tl.sigmoid(values)
    tl.store(out + at, given * gate * (1 + values * (1 - gate)), mask=at < size)


def launch(kernel, *inputs):
    inputs = [x.contiguous() for x in inputs]
    out = torch.empty_like(inputs[0])
    kernel[(triton.cdiv(out.numel(), BLOCK),)](*inputs, out, out.numel(), BLOCK=BLOCK)
    return out


def make_swish(s):
    class Swish(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return launch(_swish, x)

        @staticmethod
        @s.once_differentiable
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return launch(_swish_gradient, x, grad)

    return Swish.apply


@scenario
def values_and_gradients(s):
    swish, x = make_swish(s), s.randn(1000, requires_grad=True)
    weights = s.randn(1000)
    y = swish(x)
    s.record("output", y)
    (grad,) = torch.autograd.grad(y, x, weights)
    s.record("gradient", grad)
    reference = torch.nn.functional.silu(x)
    (expected,) = torch.autograd.grad(reference, x, weights)
    s.record("right", torch.allclose(y, reference, atol=1e-6), torch.allclose(grad, expected, atol=1e-5))


@scenario
def chain_with_hooks(s):
    swish, hooks, x = make_swish(s), hooks_of(s), s.randn(300, requires_grad=True)
    y = swish(swish(x))
    hooks.register_tensor_hook(y, lambda grad: grad * 2)
    hooks.register_node_posthook(y.grad_fn, lambda ins, outs: s.record("after", ins))
    y.sum().backward()
    s.record("input", x)


@scenario
def double_backward_is_refused(s):
    x = s.randn(10, requires_grad=True)
    (grad,) = torch.autograd.grad(make_swish(s)(x).sum(), x, create_graph=True)
    s.raises("double", lambda: grad.sum().backward())


@scenario
def on_a_side_stream(s):
    swish, x = make_swish(s), s.randn(1000, requires_grad=True)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        y = swish(x)
    torch.cuda.current_stream().wait_stream(side)
    y.sum().backward()
    s.record("input", y, x)


@scenario
def in_a_cuda_graph(s):
    swish, x = make_swish(s), s.randn(300, requires_grad=True)
    graphed = torch.cuda.make_graphed_callables(swish, (x,))
    for _ in range(2):
        x = s.randn(300, requires_grad=True)
        y = graphed(x)
        y.sum().backward()
        s.record("input", y, x)


@scenario
def under_autocast(s):
    swish, weight = make_swish(s), s.randn(16, 16, requires_grad=True)
    x = s.randn(16, 16, requires_grad=True)
    with torch.autocast("cuda", dtype=torch.float16):
        y = swish(x @ weight)
    s.record("output", y)
    y.float().sum().backward()
    s.record("inputs", x, weight)


@scenario
def kernel_that_cannot_be_launched(s):
    class Wrong(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            _swish[(1,)](grad, grad, unknown=3)

    x = s.randn(10, requires_grad=True)
    try:
        Wrong.apply(x).sum().backward()
    except Exception as error:
        s.record("raised", type(error))
    make_swish(s)(x).sum().backward()
    s.record("input", x)
