# SPDX-License-Identifier: BSD-3-Clause
"""One late error of the GPU, in a process of its own, which can't use the GPU afterwards.

``python late_errors.py VARIANT CASE`` prints the outcome of each step of the case.
"""

import gc
import sys

import torch

import torch_ext


def fail_late(x):
    """A kernel that reads beyond the end of x: the launch succeeds, and the GPU notices later."""
    return x[torch.full((4,), 1_000_000, device=x.device)]


def fail_now(x):
    fail_late(x)
    torch.cuda.synchronize()
    return x


def report(step, call):
    try:
        call()
    except RuntimeError as error:
        print(step, "raised", type(error).__name__, str(error).splitlines()[0])
    else:
        print(step, "returned")


def make(base, in_forward=torch.clone, in_backward=torch.clone):
    class Function(base):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return in_forward(x)

        @staticmethod
        def backward(ctx, grad):
            return in_backward(grad)

    return Function.apply


def leaf():
    return torch.ones(4, device="cuda", requires_grad=True)


def forward_waits(base):
    report("call", lambda: make(base, fail_now)(leaf()))


def caller_waits(base):
    x = leaf()
    report("call", lambda: make(base, fail_late)(x))
    report("synchronize", torch.cuda.synchronize)


def backward_waits(base):
    y = make(base, in_backward=fail_now)(leaf()).sum()
    report("backward", y.backward)


def caller_of_backward_waits(base):
    y = make(base, in_backward=fail_late)(leaf())

    def backward_and_wait():
        # Which of the two raises depends on how fast the GPU is.
        y.backward(torch.ones_like(y))
        torch.cuda.synchronize()

    report("backward", backward_and_wait)


def hook_waits(base):
    x = leaf()
    y = make(base)(x)
    y.register_hook(fail_now)
    report("backward", y.sum().backward)
    report("gradient", lambda: x.grad.tolist() if x.grad is not None else None)


def graph_is_freed_afterwards(base):
    function = make(base, fail_late)
    outputs = []
    report("call", lambda: outputs.append(function(leaf())))
    report("synchronize", torch.cuda.synchronize)
    node = outputs and outputs[0].grad_fn
    outputs.clear()
    gc.collect()
    report("saved", lambda: node and node.saved_tensors[0].shape)
    node = None
    gc.collect()
    print("freed")


def calls_afterwards(base):
    function, x = make(base), leaf()
    y = function(x)
    report("synchronize", lambda: fail_now(x))
    report("call", lambda: function(x))
    report("backward", lambda: (y.backward(torch.ones_like(y)), torch.cuda.synchronize()))
    on_cpu = torch.ones(4, requires_grad=True)
    report("on the CPU", lambda: function(on_cpu).sum().backward())
    print(on_cpu.grad.tolist())


CASES = {
    case.__name__: case
    for case in (
        forward_waits,
        caller_waits,
        backward_waits,
        caller_of_backward_waits,
        hook_waits,
        graph_is_freed_afterwards,
        calls_afterwards,
    )
}


def main(variant, case):
    if variant == "installed":
        torch_ext.install()
    CASES[case](torch_ext.Function if variant == "ours" else torch.autograd.Function)


if __name__ == "__main__":
    main(*sys.argv[1:])
