# SPDX-License-Identifier: BSD-3-Clause
"""A training loop with Hugging Face's accelerate as people write it; it knows nothing of torch_ext."""

import os
import sys

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Spike(torch.autograd.Function):
    """A step, with the gradient of a smooth one."""

    @staticmethod
    def forward(ctx, x, slope=5.0):
        ctx.slope = slope
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        offset = 0 if "--nan" in sys.argv else 1  # without it the gradient at 0 is 0 / 0
        return grad * x.abs() / (ctx.slope * x.abs() + offset) ** 2, None


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 2)

    def forward(self, x):
        hidden = self.first(x)
        if "--nan" in sys.argv:
            hidden = hidden * 0
        return self.second(Spike.apply(hidden))


def main():
    set_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=2)
    data = TensorDataset(torch.randn(64, 8), torch.randint(2, (64,)))
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(data, batch_size=8, shuffle=True))
    lines = []
    with torch.autograd.set_detect_anomaly("--nan" in sys.argv):
        for x, y in loader:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(x), y)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            lines.append(f"{accelerator.gather(loss.detach()).mean().item().hex()}")
    lines += [value.hex() for parameter in model.parameters() for value in parameter.flatten().tolist()]
    # In one piece: the processes write into one pipe.
    os.write(1, (f"process {accelerator.process_index} of {accelerator.num_processes}: {' '.join(lines)}\n").encode())
    # A process that leaves while the other is still communicating may abort as it ends, on stock torch too.
    accelerator.wait_for_everyone()
    del model, optimizer, loss
    accelerator.end_training()


if __name__ == "__main__":
    main()
