# SPDX-License-Identifier: BSD-3-Clause
"""How calls are timed: in short blocks, in random order, in one process.

In each round every block is timed once, and blocks that are compared give one ratio. Whatever else the machine does in
that round affects both sides of the ratio; a disturbed round is one of many, and the median doesn't show it. On the
CPU the clock is the process's CPU time, which stands still while another process runs; on a GPU it is the time of day,
read when the GPU has finished all its work.
"""

import random
import statistics
import timeit
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import perf_counter, process_time

import torch

Clock = Callable[[], float]


@dataclass(frozen=True)
class Result:
    """A comparison; times are medians over the rounds, in microseconds.

    Args:
        reference: time of the reference.
        ours: the same for torch_ext.
        ratio: median over the rounds of ours to reference.
        quartiles: lower and upper quartile of that ratio.
    """

    reference: float
    ours: float
    ratio: float
    quartiles: tuple[float, float]

    @classmethod
    def of(cls, rounds: Iterable[tuple[float, float]]) -> "Result":
        """Summarise rounds, each a pair of seconds (reference, ours)."""
        pairs = list(rounds)
        reference, ours = (statistics.median(side) * 1e6 for side in zip(*pairs, strict=True))
        ratios = [ours / reference for reference, ours in pairs]
        low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return cls(reference, ours, ratio, (low, high))


def clock_of(device: torch.device) -> Clock:
    """The clock for work on ``device``: a function that gives seconds."""
    if device.type == "cpu":
        return process_time

    def when_done() -> float:
        torch.cuda.synchronize(device)
        return perf_counter()

    return when_done


class Block:
    """A number of calls that are timed together, with the garbage collector off, in a context that isn't timed."""

    def __init__(
        self,
        call: Callable[[], object],
        grad_mode: bool,
        clock: Clock,
        context: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._timer = timeit.Timer(call, timer=clock)
        self._grad_mode = grad_mode
        self._context = context

    def run(self, number: int) -> float:
        """The seconds that ``number`` calls take."""
        with torch.set_grad_enabled(self._grad_mode), self._context():
            return self._timer.timeit(number)


def length(blocks: Iterable[Block], seconds: float) -> int:
    """The number of calls after which each block has lasted ``seconds``: one for all, so that none gains.

    Finding it warms them up.
    """
    blocks = list(blocks)
    number = 1
    while min(block.run(number) for block in blocks) < seconds:
        number *= 2
    return number


def timed_rounds(numbers: Mapping[Block, int], rounds: int) -> Iterator[dict[Block, float]]:
    """Times each block once a round, in another order each time, and yields the seconds that one call took."""
    order, blocks = random.Random(0), list(numbers)
    for _ in range(rounds):
        order.shuffle(blocks)
        yield {block: _seconds_per_call(block, numbers[block]) for block in blocks}


def _seconds_per_call(block: Block, number: int) -> float:
    block.run(number // 4 + 1)  # so that the machine forgets the block before
    return block.run(number) / number
