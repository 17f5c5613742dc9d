# SPDX-License-Identifier: BSD-3-Clause
"""What anomaly mode keeps in memory for each node of the graph.

What counts is what Python allocates (tracemalloc): torch's lists of strings, our code positions, and
the dicts with them. The graph's own memory is allocated by C++, and is the same in all modes.
"""

from __future__ import annotations

import gc
import tracemalloc

import torch

import torch_ext

from .rows import DEPTH, at_depth

NODES = 200

MODES = {
    "torch": torch.autograd.set_detect_anomaly,
    "torch_ext": torch_ext.anomaly.set_detect_anomaly,
}


def bytes_per_node(set_detect_anomaly, depth):
    """Return the bytes that a mode keeps for each node created under ``depth`` more Python frames."""

    def allocated():
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        x = torch.ones(1, requires_grad=True)
        for _ in range(NODES):
            x = x * 2
        after, _ = tracemalloc.get_traced_memory()
        return after - before

    with set_detect_anomaly(True):
        at_depth(depth, allocated)  # fills caches
        tracemalloc.start()
        try:
            kept = at_depth(depth, allocated)
        finally:
            tracemalloc.stop()
    return round(kept / NODES)


def measure_memory():
    """Return {"stack depth": {mode: bytes per node}} for a shallow and a deep stack."""
    return {
        label: {name: bytes_per_node(mode, depth) for name, mode in MODES.items()}
        for label, depth in (("shallow", 0), (f"{DEPTH} frames deeper", DEPTH))
    }
