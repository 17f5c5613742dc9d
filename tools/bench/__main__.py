# SPDX-License-Identifier: BSD-3-Clause
"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import json
import sys

import torch
from rich.console import Console
from rich.progress import Progress

from .goals import goals_for
from .measure import measure
from .memory import measure_memory
from .report import legend, machine, to_json, to_memory_table, to_table, verdicts
from .rows import ROWS

DESCRIPTION = """\
Measure what a call of a custom Function costs on torch_ext and on stock torch.

Both are timed in one process, in short blocks taken in turns and in random order, with the garbage
collector off; figures are medians, of CPU time or, on a GPU, of real time. "Overhead" is
Function.apply less the same forward called directly under no_grad. The reference is stock
torch.autograd.Function; in the row view_as it is torch's own C++ node, and in those of anomaly mode,
which also state its memory, the plain training step.
"""


def parse_options(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [row.name for row in ROWS]
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=names,
        default=names,
        metavar="ROW",
        help=f"measure only these: {', '.join(names)}",
    )
    parser.add_argument("--rounds", type=int, help="blocks of each kind (default: 200)")
    parser.add_argument("--block-ms", type=float, help="least length of a block (default: 2)")
    parser.add_argument("--quick", action="store_true", help="a look: 20 rounds of 0.2 ms blocks")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default: 1)")
    parser.add_argument("--device", default="cpu", help="where the tensors are (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    options = parser.parse_args(arguments)
    rounds, block_ms = (20, 0.2) if options.quick else (200, 2.0)
    options.rounds = rounds if options.rounds is None else options.rounds
    options.block_ms = block_ms if options.block_ms is None else options.block_ms
    if options.rounds < 2 or options.block_ms <= 0 or options.threads < 1:
        parser.error("needed: at least 2 rounds, 1 thread, and blocks longer than 0 ms")
    options.device = to_device(options.device, parser)
    return options


def to_device(name, parser):
    """Return the device of this name; the parser ends the program if there is none."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        parser.error(str(error).splitlines()[0])
    if device.type not in ("cpu", "cuda"):
        parser.error(f"--device: cpu or cuda, not {device.type}")
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"torch {torch.__version__} sees no GPU")
    return device


def main(arguments=None):
    options = parse_options(arguments)
    torch.set_num_threads(options.threads)
    rows = [row for row in ROWS if row.name in options.rows]
    # The goals were set for the CPU.
    goals = goals_for(torch.__version__) if options.device.type == "cpu" else {}

    # Progress goes to stderr, so that stdout has nothing but the outcome.
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("measuring", total=options.rounds)
        results = measure(
            rows,
            options.rounds,
            options.block_ms / 1e3,
            lambda: progress.advance(bar),
            options.device,
        )

    memory = measure_memory() if any("anomaly mode" in row.title for row in rows) else None

    if options.json:
        settings = {"rounds": options.rounds, "block_ms": options.block_ms}
        outcome = to_json(rows, results, goals, settings, memory, options.device)
        print(json.dumps(outcome, indent=2))
    else:
        console = Console()
        about = machine(options.device)
        console.print(", ".join(f"{key} {about[key]}" for key in about), highlight=False)
        console.print(to_table(rows, results, goals))
        for row in rows:
            console.print(legend(row, results[row.name]), highlight=False)
        if memory is not None:
            console.print(to_memory_table(memory))
    return 1 if options.check and False in verdicts(results, goals).values() else 0


if __name__ == "__main__":
    sys.exit(main())
