# SPDX-License-Identifier: BSD-3-Clause
"""Which line of a network keeps the memory until backward: torch_ext.graph.saved_memory, as a table and as a page.

A small transformer block. Attention that is written out keeps its scores, which grow with the square of the sequence;
scaled_dot_product_attention does not.

What it prints is in docs/explain.md.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

import torch_ext


class Attention(nn.Module):
    def __init__(self, width, fused):
        super().__init__()
        self.fused = fused
        self.project = nn.Linear(width, 3 * width)

    def forward(self, x):
        query, key, value = self.project(x).chunk(3, dim=-1)
        if self.fused:
            # Each as one head: without that dimension torch has no fused kernel.
            query, key, value = query[:, None], key[:, None], value[:, None]
            return nn.functional.scaled_dot_product_attention(query, key, value)[:, 0]
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        return scores.softmax(-1) @ value


class Block(nn.Module):
    def __init__(self, width, fused):
        super().__init__()
        self.attention = Attention(width, fused)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attention(x)
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def measure(fused):
    torch.manual_seed(0)
    model = Block(32, fused)
    loss = model(torch.randn(8, 256, 32)).square().mean()
    return torch_ext.graph.saved_memory(loss, model)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/memory.html"), help="page to write")
    options = parser.parse_args(arguments)

    with torch_ext.graph.noting():
        memory = measure(fused=False)
        fused = measure(fused=True)
    print(memory)
    print(f"\nwith scaled_dot_product_attention: {fused.total:,} bytes instead of {memory.total:,}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    memory.to_html(options.output)
    print(f"page: {options.output}")


if __name__ == "__main__":
    main()
