# SPDX-License-Identifier: BSD-3-Clause
"""Training in two processes with DistributedDataParallel, on stock torch and on torch_ext.

    torchrun --nproc-per-node 2 examples/ddp_training.py

Each process has half of every batch, and DDP averages the gradients while backward runs, by hooks on the nodes that
accumulate them. The network has a custom Function, which needs nothing for that. What two processes learn is compared
with stock torch in the same processes, and with one process that has whole batches.

It prints, in the first process::

    gradcheck: True
    losses equal on stock torch, bit for bit: True
    weights equal in both processes, bit for bit: True
    weights equal to those of one process with whole batches: True
    loss fell below a tenth of the first: True
"""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import torch_ext


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.cos()


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(1, 32), nn.Linear(32, 1)

    def forward(self, x):
        return self.leave(Sine.apply(self.enter(x)))


def train(wrap, part, parts, steps=200):
    """Train on every ``parts``-th example, from the one with number ``part`` on. Return losses and weights."""
    torch.manual_seed(0)
    model, x = Network(), torch.linspace(-3, 3, 64)[:, None]
    x = x[part::parts]
    model = wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), x.abs())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, nn.utils.parameters_to_vector(model.parameters()).detach()


def gather(tensor, size):
    """Return the tensor of each of the ``size`` processes."""
    everybodys = [torch.empty_like(tensor) for _ in range(size)]
    # A thread of gloo that lets go of a tensor while Python ends aborts the process, on stock torch too. A group waits
    # for its threads when it goes: this one on return; the one that DDP has, never.
    group = dist.new_group()
    dist.all_gather(everybodys, tensor, group=group)
    dist.destroy_process_group(group)
    return everybodys


def main():
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    on_stock, _ = train(DistributedDataParallel, rank, size)
    with torch_ext.installed():
        losses, weights = train(DistributedDataParallel, rank, size)
        _, alone = train(lambda model: model, 0, 1)
    everybodys = gather(weights, size)
    if rank == 0:
        x = torch.linspace(-3, 3, 5, dtype=torch.float64, requires_grad=True)
        print("gradcheck:", torch.autograd.gradcheck(Sine.apply, x))
        print("losses equal on stock torch, bit for bit:", losses == on_stock)
        print("weights equal in both processes, bit for bit:", torch.equal(*everybodys))
        print("weights equal to those of one process with whole batches:", torch.allclose(weights, alone, atol=1e-4))
        print("loss fell below a tenth of the first:", losses[-1] < losses[0] / 10)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    if not dist.is_torchelastic_launched():
        sys.exit("start it by torchrun --nproc-per-node 2 examples/ddp_training.py")
    main()
