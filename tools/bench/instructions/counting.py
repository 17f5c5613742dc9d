# SPDX-License-Identifier: BSD-3-Clause
"""The process under callgrind: imports torch once, and counts each row in a fork of it.

It prints a line of JSON for each row: name, reference, ours. A row is counted with the garbage collector off, after
it has been called some times: what 2 N calls take more than N, by call.
"""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
import warnings
from time import process_time

import torch

from torch_ext.timing import Block

from ..rows import ROWS
from .clock import Instructions

ENOUGH = 8_000_000  # instructions that N calls shall have
# One call of a training step differs from the next by half a percent, so that N is this, unless it takes too long.
FEW = 4
TOO_LONG = 80_000_000


def count(make, clock):
    """Return the instructions of one unit of the probe that ``make`` creates."""
    probe = make()
    floor = 0 if probe.floor is None else per_call(probe.floor, False, probe.context, clock)
    return (per_call(probe.call, True, probe.context, clock) - floor) / probe.units


def per_call(call, grad_mode, context, clock):
    warming, counting = (Block(call, grad_mode, each, context) for each in (process_time, clock))
    warming.run(1)
    number = calls_to_count(counting.run(1))
    warming.run(number)
    once = counting.run(number)
    return (counting.run(2 * number) - once) / number


def calls_to_count(instructions):
    """How many calls of so many instructions are counted."""
    return max(math.ceil(ENOUGH / instructions), min(FEW, int(TOO_LONG / instructions)))


def load(row):
    """Call a row once, so that what it imports, registers or compiles is there."""
    for make in (row.reference, row.ours):
        probe = make()
        with probe.context():
            probe.call()


def count_in_fork(row, library, folder):
    """Fork this process; the child counts the row, prints, and ends. So the other rows make no difference."""
    if os.fork():
        return
    status = 1
    try:
        load(row)
        clock = Instructions(library, folder)
        clock.start()
        counted = row.name, count(row.reference, clock), count(row.ours, clock)
        os.write(sys.stdout.fileno(), (json.dumps(counted) + "\n").encode())
        status = 0
    finally:
        if status:
            print(f"{row.name}:", traceback.format_exc(), file=sys.stderr, flush=True)
        os._exit(status)


def main(library, folder, jobs, *names):
    warnings.simplefilter("ignore")  # of what is under development in torch
    torch.set_num_threads(1)
    # Rows of the end take longest.
    rows = [row for row in reversed(ROWS) if row.name in names]
    statuses = []
    for position, row in enumerate(rows):
        if position >= int(jobs):
            statuses.append(os.wait()[1])
        count_in_fork(row, library, folder)
    while len(statuses) < len(rows):
        statuses.append(os.wait()[1])
    return 1 if any(statuses) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
