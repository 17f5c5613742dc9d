# SPDX-License-Identifier: BSD-3-Clause
"""Gradient checkpointing with saved-tensor hooks: what forward would keep is thrown away, and made again in backward.

The pack hook takes each tensor that an operator or a Function saves, and leaves a number in its place. As backward asks
for the first of them, the unpack hook runs the part of the network once more and collects what it saves this time, in
the same order. A Function takes part by `save_for_backward`; what it keeps as an attribute of ctx is not seen by hooks.

It prints::

    gradcheck: True
    gradients equal to those without a checkpoint, bit for bit: True
    gradients equal to those of torch's checkpoint, bit for bit: True
    kept for backward: 4 inputs, 524,288 bytes; without a checkpoint 1,572,864
    forward of the Function ran 4 times, in backward 4 times more
"""

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils import checkpoint as torchs

import torch_ext


def checkpoint(part, *inputs):
    """``part(*inputs)``, of which only the inputs are kept for backward."""
    state, again, saved = torch.get_rng_state(), {}, 0

    def pack(_):
        nonlocal saved
        saved += 1
        return saved

    def unpack(number):
        if number not in again:
            run_again()
        return again.pop(number)

    def run_again():
        again.clear()
        known = [x.detach().requires_grad_(x.requires_grad) for x in inputs]

        def collect(x):
            again[len(again) + 1] = x.detach()  # without its graph, which nobody needs

        with torch.random.fork_rng(devices=[]), torch.enable_grad(), saved_tensors_hooks(collect, lambda _: None):
            torch.set_rng_state(state)
            part(*known)

    with saved_tensors_hooks(pack, unpack):
        return part(*inputs)


class Swish(torch_ext.Function):
    calls = 0

    @staticmethod
    def forward(ctx, x):
        Swish.calls += 1
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        gate = x.sigmoid()
        return grad * gate * (1 + x * (1 - gate))


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x):
        return self.dropout(Swish.apply(self.linear(x)))


def gradients_and_memory(call):
    torch.manual_seed(0)
    parts, x = nn.ModuleList(Part() for _ in range(4)), torch.randn(512, 64, requires_grad=True)
    y = x.clone()
    for part in parts:
        y = call(part, y)
    memory = torch_ext.graph.saved_memory(y, parts).total
    return torch.autograd.grad(y.square().mean(), [x, *parts.parameters()]), memory, len(parts) * x.nbytes


def main():
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    print("gradcheck:", torch.autograd.gradcheck(lambda x: checkpoint(Swish.apply, x), x))

    Swish.calls = 0
    # The hooks keep the inputs, and numbers in the place of what was saved: the graph itself keeps nothing.
    ours, kept, inputs = gradients_and_memory(checkpoint)
    calls = Swish.calls
    plain, all_kept, _ = gradients_and_memory(lambda part, x: part(x))
    theirs, *_ = gradients_and_memory(lambda part, x: torchs.checkpoint(part, x, use_reentrant=False))
    print("gradients equal to those without a checkpoint, bit for bit:", all(map(torch.equal, ours, plain)))
    print("gradients equal to those of torch's checkpoint, bit for bit:", all(map(torch.equal, ours, theirs)))
    print(f"kept for backward: 4 inputs, {inputs + kept:,} bytes; without a checkpoint {all_kept:,}")
    print(f"forward of the Function ran 4 times, in backward {calls - 4} times more")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
