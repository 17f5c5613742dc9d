# SPDX-License-Identifier: BSD-3-Clause
"""Costs as work grows, on stock torch and on torch_ext: ``python -m tools.bench.growth``.

Time per node (forward, backward and death) and memory per node in chains of 10 to 1,000,000 nodes, and the overhead of
a call with 1 to 64 tensors in.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from . import plots
from .measure import measure
from .memory import CAN_COUNT, allocated, in_process_that_counts
from .report import machine
from .rows import BASES, SIZE, Probe, against_stock, identity_function
from .rows.chains import identity_chain

CHAINS = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
ARGUMENTS = (1, 2, 4, 8, 16, 32, 64)

# Flat is what grows with the number of nodes by no higher power than this. Chains of less than 100 nodes are left out,
# since one backward has costs of its own. The rest above 1 is for long chains, which no cache holds.
FLAT = 1.1
# Linear: the least correlation of the time with the number of arguments.
LINEAR = 0.99
# What one argument more may take of what it takes on stock torch, by release.
SLOPES = {"2.13": 0.5}


# --- What is measured -----------------------------------------------------------------------------


def first_of(base, count):
    """A Function that takes ``count`` tensors, all of which require grad, and returns the first."""

    class First(base):
        @staticmethod
        def forward(ctx, *inputs):
            return inputs[0]

        @staticmethod
        def backward(ctx, grad):
            return (grad, *[None] * (count - 1))

    inputs = [torch.ones(SIZE, requires_grad=True) for _ in range(count)]
    return Probe(lambda: First.apply(*inputs), lambda: First.forward(None, *inputs))


def bytes_per_node(base, nodes):
    """Return what malloc has handed out for each node of a chain that is alive."""
    function, start = identity_function(base), torch.ones(SIZE, requires_grad=True)

    def create():
        x = start
        for _ in range(nodes):
            x = function.apply(x)
        return x

    for _ in range(3):
        create()  # fills caches
    allocated()
    gc.collect()
    before = allocated()
    x = create()
    size = (allocated() - before) / nodes
    del x
    return size


# --- Measuring ------------------------------------------------------------------------------------


def measure_growth(title, make, sizes, rounds, seconds, on_round=lambda: None):
    """Return a dict for each size, with times in microseconds for each unit of ``make(base, size)``."""
    rows = [against_stock(str(size), title, lambda base, size=size: make(base, size)) for size in sizes]
    results = measure(rows, rounds, seconds, on_round)
    return [{"size": size, **asdict(results[str(size)])} for size in sizes]


def exponent(sizes, totals):
    """By which power of the size the total grows."""
    pairs = [(math.log(size), math.log(total)) for size, total in zip(sizes, totals, strict=True) if size >= 100]
    return statistics.linear_regression(*zip(*pairs, strict=True)).slope


def judge(chains, arguments, version=torch.__version__):
    """Return what the figures say of growth, and by goal whether it is met, None if there is none."""
    sizes, counts = ([each["size"] for each in part] for part in (chains, arguments))
    found = {}
    for side in BASES:
        times = [each[side] for each in arguments]
        found[side] = {
            "time_exponent": exponent(sizes, [each["size"] * each[side] for each in chains]),
            "memory_exponent": exponent(sizes, [each["size"] * each["memory"][side] for each in chains]),
            "argument_us": statistics.linear_regression(counts, times).slope,
            "correlation": statistics.correlation(counts, times),
        }
    ours, goal = found["ours"], SLOPES.get(".".join(version.split(".")[:2]))
    slope = ours["argument_us"] / found["reference"]["argument_us"]
    met = {
        "time flat": ours["time_exponent"] <= FLAT,
        "memory flat": ours["memory_exponent"] <= FLAT,
        "arguments linear": ours["correlation"] >= LINEAR,
        "slope": None if goal is None else slope <= goal,
    }
    return {**found, "slope_ratio": slope, "slope_goal": goal, "met": met}


# --- The outcome ----------------------------------------------------------------------------------


def chain_table(chains):
    table = Table(title="A chain: time and memory by node")
    for heading in ("nodes\n", "stock\nus", "ours\nus", "ratio\n", "stock\nbytes", "ours\nbytes"):
        table.add_column(heading, justify="right")
    for each in chains:
        times = f"{each['reference']:.2f}", f"{each['ours']:.2f}", f"{each['ratio']:.2f}"
        table.add_row(f"{each['size']:,}", *times, *(f"{each['memory'][side]:,.0f}" for side in BASES))
    return table


def argument_table(arguments):
    table = Table(title="A call's overhead by tensors in")
    for heading in ("tensors\n", "stock\nus", "ours\nus", "ratio\n"):
        table.add_column(heading, justify="right")
    for each in arguments:
        table.add_row(str(each["size"]), *(f"{each[name]:.2f}" for name in ("reference", "ours", "ratio")))
    return table


def sentences(judged):
    """What is judged, a line each."""
    ours, stock = judged["ours"], judged["reference"]
    words = {True: "met", False: "missed", None: "no goal for this torch"}
    met = {name: words[value] for name, value in judged["met"].items()}
    yield f"time grows by the power {ours['time_exponent']:.3f} of the nodes (stock {stock['time_exponent']:.3f})"
    yield f"  flat: at most {FLAT}: {met['time flat']}"
    yield f"memory grows by the power {ours['memory_exponent']:.3f} (stock {stock['memory_exponent']:.3f})"
    yield f"  flat: at most {FLAT}: {met['memory flat']}"
    yield f"a tensor more takes {ours['argument_us']:.3f} us (stock {stock['argument_us']:.3f})"
    yield f"  linear: a correlation of {ours['correlation']:.4f}, at least {LINEAR}: {met['arguments linear']}"
    yield f"  slope, ours to stock: {judged['slope_ratio']:.2f}, goal {judged['slope_goal']}: {met['slope']}"


def measure_all(chains, arguments, rounds, seconds):
    """Return everything, as a JSON value."""
    if not CAN_COUNT:
        raise SystemExit("python -m tools.bench.growth needs a Python with a GIL, whose memory can be counted")
    memory = in_process_that_counts(f"{__package__}.growth", "--bytes-of", *map(str, chains))
    measured = measure_growth("chain", identity_chain, chains, rounds, seconds)
    chained = [{**each, "memory": memory[str(each["size"])]} for each in measured]
    argued = measure_growth("arguments", first_of, arguments, rounds, seconds)
    return {"machine": machine(), "chains": chained, "arguments": argued, "growth": judge(chained, argued)}


def parse_options(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tools.bench.growth", description=__doc__)
    parser.add_argument("--rounds", type=int, help="blocks of each kind (default: 5)")
    parser.add_argument("--quick", action="store_true", help="a look: 3 rounds, and chains of up to 10,000 nodes")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw growth_chains.svg and growth_arguments.svg")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the tables")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--bytes-of", nargs="+", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rounds is None:
        options.rounds = 3 if options.quick else 5
    if options.rounds < 2:
        parser.error("needed: at least 2 rounds")
    return options


def main(arguments=None):
    options = parse_options(arguments)
    torch.set_num_threads(1)
    if options.bytes_of:
        sizes = {n: {side: bytes_per_node(base, n) for side, base in BASES.items()} for n in options.bytes_of}
        print(json.dumps(sizes))
        return 0
    chains = tuple(size for size in CHAINS if size <= 10_000) if options.quick else CHAINS
    outcome = measure_all(chains, ARGUMENTS, options.rounds, 1e-3 if options.quick else 0.02)
    if options.plots:
        plots.draw_growth(outcome, options.plots)
    if options.json:
        print(json.dumps(outcome, indent=2))
    else:
        Console().print(chain_table(outcome["chains"]), argument_table(outcome["arguments"]))
        print(*sentences(outcome["growth"]), sep="\n")
    return 1 if options.check and False in outcome["growth"]["met"].values() else 0


if __name__ == "__main__":
    sys.exit(main())
