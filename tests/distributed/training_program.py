# SPDX-License-Identifier: BSD-3-Clause
"""A data-parallel training as people write it for torchrun; it knows nothing of torch_ext but whether it is there.

Each rank writes its losses and parameters, each bit of them, to a file of its name.
"""

import argparse
import datetime
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

STEPS = 5


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        ending(ctx)
        gate = x.sigmoid()
        return grad * (gate + x * gate * (1 - gate))


def ending(ctx):
    """Ends rank 1 in its third step, the first time that it is started, if the command line says so."""
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if first and dist.get_rank() == 1 and state["step"] == 2:
        if options.die:
            os.kill(os.getpid(), signal.SIGKILL)
        if getattr(options, "raise"):
            raise ValueError("a Function of rank 1 failed")


class Layer(nn.Linear):
    def forward(self, x):
        return Swish.apply(super().forward(x))


parser = argparse.ArgumentParser()
parser.add_argument("--die", action="store_true")
parser.add_argument("--raise", action="store_true")
options = parser.parse_args()

dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
rank = dist.get_rank()
torch.manual_seed(0)
model = DistributedDataParallel(nn.Sequential(Layer(4, 8), Layer(8, 4)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
state, saved = {"step": 0}, Path("saved.pt")
if saved.exists():
    loaded = torch.load(saved)
    model.load_state_dict(loaded["model"])
    optimizer.load_state_dict(loaded["optimizer"])
    state = loaded["state"]

with open(f"rank{rank}", "a") as file:
    print(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}, from step {state['step']}", file=file)
    installed = "torch_ext" in sys.modules and sys.modules["torch_ext"].is_installed()
    print(f"on torch_ext: {installed}", file=file)
    generator = torch.Generator().manual_seed(rank)
    batches = torch.randn(STEPS, 3, 4, generator=generator)
    while state["step"] < STEPS:
        optimizer.zero_grad()
        loss = model(batches[state["step"]]).square().mean()
        print(f"step {state['step']}: {loss.item().hex()}", file=file, flush=True)
        loss.backward()
        optimizer.step()
        state["step"] += 1
        if rank == 0:
            content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": state}
            torch.save(content, "saving.pt")
            os.replace("saving.pt", saved)
        dist.barrier()
    print([value.hex() for parameter in model.parameters() for value in parameter.flatten().tolist()], file=file)
dist.destroy_process_group()
