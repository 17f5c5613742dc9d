# SPDX-License-Identifier: BSD-3-Clause
"""Times a program's steps: a few on stock torch, a few on torch_ext, in random order."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from time import perf_counter, process_time

import torch_ext
from torch_ext.timing import Block, Result, timed_rounds


class Turn(Block):
    """Steps of one copy of a program on one side. ``loss`` is the last one's."""

    def __init__(self, program, context):
        step = program.make()

        def keep_loss():
            self.loss = step()

        # Where processes wait for each other, CPU time is not what a step takes.
        super().__init__(keep_loss, True, process_time if program.processes == 1 else perf_counter, context)


def measure(program, rounds, steps):
    """Return a JSON value: times of a step in microseconds, and what part of it custom Functions take.

    Args:
        program: what to train; two copies of it are.
        rounds: how often each side has its turn, at least 2.
        steps: how many steps a turn has. Not found by trying, since processes that train together have to agree.

    Raises:
        RuntimeError: the losses of the two sides differ.
    """
    turns = [Turn(program, context) for context in (nullcontext, torch_ext.installed)]
    times = [tuple(round_[turn] for turn in turns) for round_ in timed_rounds(dict.fromkeys(turns, steps), rounds)]
    stock, ours = turns
    if float(stock.loss) != float(ours.loss):
        raise RuntimeError(
            f"{program.name}: the loss is {float(stock.loss)} on stock torch, {float(ours.loss)} on ours"
        )
    return {
        "name": program.name,
        "title": program.title,
        **asdict(Result.of(times)),
        **functions_of(ours, rounds * steps),
    }


def functions_of(turn, steps):
    """Return the calls of a step, and the share of its time in custom Functions, what they call included."""
    with torch_ext.profile.record(stock=False) as record:
        turn.run(steps)
    report = record.report
    return {
        "calls": sum(each.forward.calls for each in report.functions) / steps,
        "share": sum(each.total for each in report.functions) / report.seconds,
    }
