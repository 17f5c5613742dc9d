# SPDX-License-Identifier: BSD-3-Clause
"""Times rows: each is two probes, a reference and torch_ext. How blocks are timed is in torch_ext.timing."""

from __future__ import annotations

import torch

import torch_ext
from torch_ext.timing import Block, Result, clock_of, length, timed_rounds


class Timed:
    """A probe, cut into its blocks."""

    def __init__(self, make, device):
        with device:  # the probe creates its tensors there
            probe = make()
        clock = clock_of(device)
        self.units = probe.units
        self.call = Block(probe.call, True, clock, probe.context)
        self.floor = Block(probe.floor, False, clock, probe.context) if probe.floor else None

    def blocks(self):
        return [self.call] if self.floor is None else [self.call, self.floor]

    def seconds(self, times):
        """Return what one unit costs, given the seconds per call of each block."""
        floor = 0.0 if self.floor is None else times[self.floor]
        return (times[self.call] - floor) / self.units


def measure(rows, rounds, seconds, on_round=lambda: None, device=torch.device("cpu")):
    """Time rows and return their results by name.

    Args:
        rows: the rows to time.
        rounds: how often each block is timed, at least 2.
        seconds: the least that one block lasts.
        on_round: called after each round.
        device: where the rows' tensors are.

    Raises:
        RuntimeError: torch_ext is installed, so there is no stock torch to compare with.
    """
    if torch_ext.is_installed():
        raise RuntimeError("torch_ext is installed: call torch_ext.uninstall() before measuring")
    pairs = {row.name: tuple(Timed(make, device) for make in (row.reference, row.ours)) for row in rows}
    numbers = {}  # calls by block
    for pair in pairs.values():
        blocks = [block for timed in pair for block in timed.blocks()]
        numbers.update(dict.fromkeys(blocks, length([timed.call for timed in pair], seconds)))

    measured = {name: [] for name in pairs}
    for times in timed_rounds(numbers, rounds):
        for name, pair in pairs.items():
            measured[name].append(tuple(timed.seconds(times) for timed in pair))
        on_round()
    return {name: Result.of(each) for name, each in measured.items()}
