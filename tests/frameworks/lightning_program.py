# SPDX-License-Identifier: BSD-3-Clause
"""A training with Lightning as people write it; it knows nothing of torch_ext."""

import os
import sys

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Clamp(torch.autograd.Function):
    """Rounds in forward and lets the gradient through between -1 and 1."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x.clamp(-1, 1) * 7).round() / 7

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 1)


class Norm(torch.autograd.Function):
    """Its gradient at 0 is NaN."""

    @staticmethod
    def forward(ctx, x):
        norm = x.norm(dim=1, keepdim=True)
        ctx.save_for_backward(x, norm)
        return norm

    @staticmethod
    def backward(ctx, grad):
        x, norm = ctx.saved_tensors
        return grad * x / norm


class Classifier(lightning.LightningModule):
    def __init__(self, with_nan):
        super().__init__()
        self.first, self.second, self.with_nan = nn.Linear(8, 16), nn.Linear(16, 3), with_nan

    def forward(self, x):
        hidden = Clamp.apply(self.first(x))
        if self.with_nan:
            hidden = hidden + Norm.apply(hidden - hidden)
        return self.second(hidden)

    def training_step(self, batch, index):
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        # In one piece: the processes of a parallel training write into one pipe.
        os.write(1, f"rank {self.global_rank}, step {index}: {loss.item().hex()}\n".encode())
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def main():
    lightning.seed_everything(0, verbose=False)
    data = TensorDataset(torch.randn(48, 8), torch.randint(3, (48,)))
    model = Classifier(with_nan="--nan" in sys.argv)
    trainer = lightning.Trainer(
        detect_anomaly=True,
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=0.5,
        accumulate_grad_batches=2,
        strategy="ddp" if "--ddp" in sys.argv else "auto",
        devices=2 if "--ddp" in sys.argv else 1,
    )
    trainer.fit(model, DataLoader(data, batch_size=8, shuffle=True))
    values = [value.hex() for parameter in model.parameters() for value in parameter.flatten().tolist()]
    os.write(1, f"rank {trainer.global_rank}: {' '.join(values)}\n".encode())


if __name__ == "__main__":
    main()
