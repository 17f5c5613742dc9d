# SPDX-License-Identifier: BSD-3-Clause
"""Late errors of a device, each in a process of its own, which can't use the device afterwards.

``python late_errors.py DEVICE VARIANT`` prints the outcome of each case as JSON: a line for each step, and the exit
status.
"""

import contextlib
import gc
import json
import os
import sys

import torch
from harness import standin
from harness.engine import settle

import torch_ext

DEVICE = MODULE = None  # the device of this process, and torch's module for it


def fail_late(x):
    """A kernel that reads beyond the end of x: the launch succeeds, and the device notices later."""
    return x[torch.full((4,), 1_000_000, device=x.device)]


def fail_now(x):
    fail_late(x)
    MODULE.synchronize()
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
    return torch.ones(4, device=DEVICE, requires_grad=True)


def forward_waits(base):
    report("call", lambda: make(base, fail_now)(leaf()))


def caller_waits(base):
    x = leaf()
    report("call", lambda: make(base, fail_late)(x))
    report("synchronize", lambda: MODULE.synchronize())


def backward_waits(base):
    y = make(base, in_backward=fail_now)(leaf()).sum()
    report("backward", y.backward)


def caller_of_backward_waits(base):
    y = make(base, in_backward=fail_late)(leaf())

    def backward_and_wait():
        # Which of the two raises depends on how fast the device is.
        y.backward(torch.ones_like(y))
        MODULE.synchronize()

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
    report("synchronize", lambda: MODULE.synchronize())
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
    report("backward", lambda: (y.backward(torch.ones_like(y)), MODULE.synchronize()))
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


def run(device, base, case):
    """A case as this process's own, which begins and ends with the engine's thread at rest."""
    global DEVICE, MODULE
    DEVICE, MODULE = device, torch.get_device_module(device)
    settle(device)
    CASES[case](base)
    with contextlib.suppress(RuntimeError):  # the late error, again
        settle(device)


def forked(device, base, case):
    """What the case prints in a process of its own, and its exit status. This process must not use the device."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, sys.stdout.fileno())
        os.close(reading)
        os.close(writing)
        run(device, base, case)
        sys.exit()
    os.close(writing)
    with open(reading) as printed:
        text = printed.read()
    return text, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(device, variant):
    if device == standin.NAME:
        standin.load()
    if variant == "installed":
        torch_ext.install()
    base = torch_ext.Function if variant == "ours" else torch.autograd.Function
    gc.freeze()  # a child ends faster, and this process is one that only has children
    outcomes = {case: forked(torch.device(device), base, case) for case in CASES}
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
