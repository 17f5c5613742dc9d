# SPDX-License-Identifier: BSD-3-Clause
"""The command line of the end-to-end benchmark."""

from __future__ import annotations

import argparse
import json
import sys

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..report import machine
from .measure import measure
from .processes import measure_in_processes
from .programs import PROGRAMS

DESCRIPTION = """\
Time whole training steps on stock torch and on torch_ext.

Two copies of a program take turns of some steps, in random order; their losses have to be equal bit
for bit. Figures are medians of CPU time, or of real time where processes wait for each other.
"""


def parse_options(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.end_to_end",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [program.name for program in PROGRAMS]
    parser.add_argument(
        "--programs", nargs="+", choices=names, default=names, help=f"measure only these: {', '.join(names)}"
    )
    parser.add_argument("--rounds", type=int, help="turns of each side (default: 40)")
    parser.add_argument("--steps", type=int, help="steps of a turn (default: 5)")
    parser.add_argument("--quick", action="store_true", help="a look: 5 turns of 2 steps")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    options = parser.parse_args(arguments)
    rounds, steps = (5, 2) if options.quick else (40, 5)
    options.rounds = rounds if options.rounds is None else options.rounds
    options.steps = steps if options.steps is None else options.steps
    if options.rounds < 2 or options.steps < 1:
        parser.error("needed: at least 2 rounds, and 1 step")
    return options


def to_table(outcomes):
    table = Table(title="A training step; the share in custom Functions is of one on torch_ext")
    table.add_column("program\n", no_wrap=True)
    headings = "stock\nms", "ours\nms", "ratio\n", "quartiles\nof ratio", "calls\na step", "in\nFunctions"
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for each in outcomes:
        low, high = each["quartiles"]
        table.add_row(
            each["name"],
            f"{each['reference'] / 1e3:.2f}",
            f"{each['ours'] / 1e3:.2f}",
            f"{each['ratio']:.2f}",
            f"{low:.2f}-{high:.2f}",
            f"{each['calls']:.0f}",
            f"{each['share']:.0%}",
        )
    return table


def main(arguments=None):
    options = parse_options(arguments)
    torch.set_num_threads(1)
    programs = [program for program in PROGRAMS if program.name in options.programs]
    outcomes = [
        (measure if program.processes == 1 else measure_in_processes)(program, options.rounds, options.steps)
        for program in track(programs, "measuring", console=Console(stderr=True), transient=True)
    ]
    if options.json:
        settings = {"rounds": options.rounds, "steps": options.steps}
        print(json.dumps({"machine": machine(), "settings": settings, "programs": outcomes}, indent=2))
        return 0
    console = Console()
    console.print(to_table(outcomes))
    for each in outcomes:
        console.print(f"{each['name']}: {each['title']}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
