# SPDX-License-Identifier: BSD-3-Clause
"""The process under callgrind: imports torch once, and counts each row in a fork of it.

It prints a line of JSON for each row: name, reference, ours. A row is counted with the garbage collector off, after it has been called some
times: the difference between N calls and 2 N, by call.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import sys
import traceback
import warnings
from pathlib import Path
from time import process_time

import torch

from torch_ext.timing import Block

from ..rows import ROWS

ENOUGH = 8_000_000  # instructions that N calls shall have


class Instructions:
    """A clock that shows the instructions that this process has executed, on all threads, but not its own.

    Args:
        library: what requests.cpp was compiled to.
        folder: where callgrind writes its files.
    """

    def __init__(self, library, folder):
        self._requests = ctypes.PyDLL(library)
        self._folder = Path(folder)
        self._total = 0

    def start(self):
        self._requests.start_counting()
        self()

    def __call__(self):
        self._requests.pause_counting()
        (file,) = self._folder.glob(f"{os.getpid()}.*")
        with file.open() as lines:
            totals = next(line for line in lines if line.startswith("totals:"))
        file.unlink()
        self._total += int(totals.split()[1])
        self._requests.resume_counting()
        return self._total


def count(make, clock):
    """Return the instructions of one unit of the probe that ``make`` creates."""
    probe = make()
    floor = 0 if probe.floor is None else per_call(probe.floor, False, probe.context, clock)
    return (per_call(probe.call, True, probe.context, clock) - floor) / probe.units


def per_call(call, grad_mode, context, clock):
    warming, counting = (Block(call, grad_mode, each, context) for each in (process_time, clock))
    warming.run(1)
    number = math.ceil(ENOUGH / counting.run(1))
    warming.run(number)
    once = counting.run(number)
    return (counting.run(2 * number) - once) / number


def load(rows):
    """Call each row once, so that what it imports, registers or compiles is there."""
    for row in rows:
        for make in (row.reference, row.ours):
            probe = make()
            with probe.context():
                probe.call()


def count_in_fork(row, clock):
    """Fork this process; the child counts the row, prints, and ends."""
    if os.fork():
        return
    status = 1
    try:
        counted = row.name, count(row.reference, clock), count(row.ours, clock)
        os.write(sys.stdout.fileno(), (json.dumps(counted) + "\n").encode())
        status = 0
    except BaseException:
        print(f"{row.name}:", traceback.format_exc(), file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def main(library, folder, jobs, *names):
    warnings.simplefilter("ignore")  # of what is under development in torch
    torch.set_num_threads(1)
    # Rows of the end take longest.
    rows = [row for row in reversed(ROWS) if row.name in names]
    load(rows)
    clock = Instructions(library, folder)
    clock.start()
    statuses = []
    for position, row in enumerate(rows):
        if position >= int(jobs):
            statuses.append(os.wait()[1])
        count_in_fork(row, clock)
    while len(statuses) < len(rows):
        statuses.append(os.wait()[1])
    return 1 if any(statuses) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
