# SPDX-License-Identifier: BSD-3-Clause
"""What threads add, on stock torch and on torch_ext: ``python -m tools.bench.scaling``.

Each of 1, 2 ... threads runs forward and backward of graphs of its own, a chain of custom Functions each. A
throughput is the chains that all threads together end in a second; blocks of stock torch and of torch_ext take turns.
Without a GIL more threads should do more; with one they can't.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import threading
import time
from pathlib import Path

import torch

from .report import machine
from .rows import BASES, CHAIN, identity_function
from .rows.chains import chain_of

GOAL = 1.8  # the least that two threads do of what one does, where there is no GIL
# All threads call one class, or each its own.
CLASSES = ("one class", "a class each")


def has_gil():
    return getattr(sys, "_is_gil_enabled", lambda: True)()


# --- Measuring ------------------------------------------------------------------------------------


def throughput(runs, seconds):
    """Run each of ``runs`` on a thread of its own, over and over for so long; return the chains in a second."""
    barrier = threading.Barrier(len(runs) + 1)
    done = [0] * len(runs)
    stop = threading.Event()

    def work(index):
        run, count = runs[index], 0
        barrier.wait()
        while count == 0 or not stop.is_set():
            run()
            count += 1
        done[index] = count

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(runs))]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


def measure_scaling(counts, classes, rounds, seconds):
    """Return a dict for each number of threads: the median throughput of each side."""
    works = {}
    for side, base in BASES.items():
        shared = identity_function(base)
        for count in counts:
            own = [shared if classes == "one class" else identity_function(base) for _ in range(count)]
            works[side, count] = [chain_of(function).call for function in own]
    for runs in works.values():
        throughput(runs, seconds / 10)  # fills caches
    found = {key: [] for key in works}
    for _ in range(rounds):
        for key in random.sample(list(works), len(works)):
            found[key].append(throughput(works[key], seconds))
    return [{"threads": count, **{side: statistics.median(found[side, count]) for side in BASES}} for count in counts]


def speedups(measured, side):
    """The throughput at each number of threads, by that of one."""
    return [each[side] / measured[0][side] for each in measured]


def judge(outcome):
    """Return by goal whether it is met; None where there is a GIL, or one core."""
    measured = [each for part in outcome["classes"].values() for each in part]
    at_two = [
        speedup
        for part in outcome["classes"].values()
        for each, speedup in zip(part, speedups(part, "ours"), strict=True)
        if each["threads"] == 2
    ]
    if outcome["gil"] or outcome["cores"] < 2 or not at_two:
        return {"two threads": None, "not below stock": None}
    return {
        "two threads": min(at_two) >= GOAL,
        "not below stock": all(each["ours"] >= each["reference"] for each in measured),
    }


# --- The outcome ----------------------------------------------------------------------------------


def scaling_table(title, measured):
    from rich.table import Table

    table = Table(title=title)
    for heading in ("threads\n", "stock\nchains/s", "ours\nchains/s", "stock\nby one's", "ours\nby one's"):
        table.add_column(heading, justify="right")
    by_one = [speedups(measured, side) for side in BASES]
    for each, *ratios in zip(measured, *by_one, strict=True):
        sides = (f"{each[side]:,.0f}" for side in BASES)
        table.add_row(str(each["threads"]), *sides, *(f"{ratio:.2f}" for ratio in ratios))
    return table


def show(outcome):
    from rich.console import Console

    console = Console()
    about = outcome["machine"]
    gil = "with the GIL" if outcome["gil"] else "without the GIL"
    console.print(f"torch {about['torch']}, Python {about['python']} {gil}, {outcome['cores']} cores", highlight=False)
    for title, measured in outcome["classes"].items():
        console.print(scaling_table(f"Chains of {CHAIN} nodes, {title}", measured))
    words = {True: "met", False: "missed", None: "no goal here"}
    console.print(f"two threads do at least {GOAL} times what one does: {words[outcome['met']['two threads']]}")
    console.print(f"never below stock torch: {words[outcome['met']['not below stock']]}")


def parse_options(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tools.bench.scaling", description=__doc__)
    cores = len(os.sched_getaffinity(0))
    counts = [count for count in (1, 2, 4, 8, 16, 32) if count <= 2 * cores]
    parser.add_argument("--threads", type=int, nargs="+", default=counts, help=f"default: {counts}, from the cores")
    parser.add_argument("--rounds", type=int, default=9, help="blocks of each kind (default: 9)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a block (default: 0.5)")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw scaling.svg")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the tables")
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="show what --json printed, measure nothing")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    options = parser.parse_args(arguments)
    options.threads = sorted({1, *options.threads})
    if min(options.threads) < 1 or options.rounds < 1 or options.seconds <= 0:
        parser.error("needed: at least 1 thread, 1 round and some time")
    return options


def measure_all(options):
    torch.set_num_threads(1)
    outcome = {"machine": machine(), "cores": len(os.sched_getaffinity(0)), "gil": has_gil()}
    outcome["classes"] = {
        classes: measure_scaling(options.threads, classes, options.rounds, options.seconds) for classes in CLASSES
    }
    return {**outcome, "met": judge(outcome)}


def main(arguments=None):
    options = parse_options(arguments)
    outcome = json.loads(options.from_json.read_text()) if options.from_json else measure_all(options)
    if options.plots:
        from . import plots

        plots.draw_scaling(outcome, options.plots)
    if options.json:
        print(json.dumps(outcome, indent=2))
    else:
        show(outcome)
    return 1 if options.check and False in outcome["met"].values() else 0


if __name__ == "__main__":
    sys.exit(main())
