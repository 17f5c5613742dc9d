# SPDX-License-Identifier: BSD-3-Clause
"""How calls are timed: in short blocks, in random order, in one process.

In each round every row's two probes are timed once and give one ratio. Whatever else the machine
does in that round affects both sides of the ratio; a disturbed round is one of many, and the median
doesn't show it. On the CPU the clock is the process's CPU time, which stands still while another
process runs; on a GPU it is the time of day, read when the GPU has finished all its work.
"""

from __future__ import annotations

import random
import statistics
import timeit
from dataclasses import dataclass
from time import perf_counter, process_time

import torch

import torch_ext


@dataclass(frozen=True)
class Result:
    """A measured row; times are medians over the rounds, in microseconds.

    Args:
        reference: time of the reference (its overhead, if the probe has a floor).
        ours: the same for torch_ext.
        ratio: median over the rounds of ours to reference.
        quartiles: lower and upper quartile of that ratio.
    """

    reference: float
    ours: float
    ratio: float
    quartiles: tuple[float, float]

    @classmethod
    def of(cls, rounds):
        """Summarise rounds, each a pair of seconds (reference, ours)."""
        reference, ours = (statistics.median(side) * 1e6 for side in zip(*rounds, strict=True))
        ratios = [ours / reference for reference, ours in rounds]
        low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return cls(reference, ours, ratio, (low, high))


def clock_of(device):
    """Return the clock for work on ``device``: a function that gives seconds."""
    if device.type == "cpu":
        return process_time

    def when_done():
        torch.cuda.synchronize(device)
        return perf_counter()

    return when_done


class Block:
    """A number of calls that are timed together."""

    def __init__(self, call, grad_mode, clock):
        self.timer = timeit.Timer(call, timer=clock)  # with the garbage collector off
        self.grad_mode = grad_mode

    def run(self, number):
        """Return the seconds that ``number`` calls take."""
        with torch.set_grad_enabled(self.grad_mode):
            return self.timer.timeit(number)


class Timed:
    """A probe, cut into its blocks."""

    def __init__(self, make, device):
        with device:  # the probe creates its tensors there
            probe = make()
        clock = clock_of(device)
        self.units = probe.units
        self.call = Block(probe.call, True, clock)
        self.floor = Block(probe.floor, False, clock) if probe.floor else None

    def blocks(self):
        return [self.call] if self.floor is None else [self.call, self.floor]

    def seconds(self, times):
        """Return what one unit costs, given the seconds per call of each block."""
        floor = 0.0 if self.floor is None else times[self.floor]
        return (times[self.call] - floor) / self.units


def length(pair, seconds):
    """Return the number of calls in a block: the same for both sides of a row, so that neither gains.

    Finding it warms both sides up.
    """
    number = 1
    while min(timed.call.run(number) for timed in pair) < seconds:
        number *= 2
    return number


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
        numbers.update(dict.fromkeys(blocks, length(pair, seconds)))

    measured = {name: [] for name in pairs}
    order, blocks = random.Random(0), list(numbers)
    for _ in range(rounds):
        order.shuffle(blocks)
        times = {block: seconds_per_call(block, numbers[block]) for block in blocks}
        for name, pair in pairs.items():
            measured[name].append(tuple(timed.seconds(times) for timed in pair))
        on_round()
    return {name: Result.of(each) for name, each in measured.items()}


def seconds_per_call(block, number):
    """Time a block, after a quarter of its calls that make the machine forget the block before."""
    block.run(number // 4 + 1)
    return block.run(number) / number
