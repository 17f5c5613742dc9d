# SPDX-License-Identifier: BSD-3-Clause
"""The command line of the matrix."""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import sys
import tempfile

from rich.console import Console

from . import record
from .cell import Cell, Run
from .report import to_table

DESCRIPTION = """\
Build torch_ext with each release of torch on each release of Python, run its tests, its benchmark and random
programs, and print one table.

Each pair gets a copy of the checkout with an environment of its own (make build), one after the other; all
but its log is removed afterwards. An interpreter is looked for on PATH and among pyenv's and uv's; one that is
missing is installed by uv or pyenv, if either is there. "3.14t" is Python without a GIL. pip's own settings
(PIP_INDEX_URL, PIP_EXTRA_INDEX_URL ...) say where packages come from. A torch with CUDA libraries takes several
gigabytes, and runs if there is no GPU too.

With --record each cell is written down in tools/matrix/record.json as soon as it has ended, and into the table
of docs/releases.md.
"""


def parse_options(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m tools.matrix", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    torches, pythons = ["2.11.0", "2.13.0", "2.15.0"], ["3.10", "3.11", "3.12", "3.13", "3.14"]
    parser.add_argument("--torch", nargs="+", default=torches, metavar="X.Y.Z", help=f"default: {' '.join(torches)}")
    parser.add_argument("--python", nargs="+", default=pythons, metavar="X.Y", help=f"default: {' '.join(pythons)}")
    parser.add_argument("--folder", help="where the copies and logs go (default: a new temporary folder)")
    parser.add_argument("--keep", action="store_true", help="leave the copies with their environments there")
    parser.add_argument("--workers", default=str(os.cpu_count()), help="processes for the tests (default: one a core)")
    parser.add_argument("--pytest", type=shlex.split, default=[], metavar="ARGS", help="further arguments for pytest")
    parser.add_argument("--bench", type=shlex.split, default=[], metavar="ARGS", help="and for the benchmark")
    parser.add_argument("--no-bench", dest="bench", action="store_const", const=None, help="leave the benchmark out")
    parser.add_argument("--fuzz", type=int, default=10_000, metavar="N", help="random programs (default: 10000)")
    parser.add_argument("--record", metavar="TESTS", nargs="?", const="all", help="write it down; TESTS says of which")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse_options(arguments)
    folder = options.folder or tempfile.mkdtemp(prefix="torch_ext-matrix-")
    os.makedirs(folder, exist_ok=True)
    console = Console()
    cells = []
    for torch, python in itertools.product(options.torch, options.python):
        cell = Cell(torch, python)
        cells.append(cell)
        console.print(f"torch {torch} on Python {python} ...")
        Run(cell, folder, options.workers, options.pytest, options.bench, options.fuzz).run(options.keep)
        if options.record and cell.tested is not None:
            record.keep(cell, options.record)
            record.redraw()
        if cell.failure:
            console.print(f"  {cell.failure}")
        else:
            console.print(f"  {cell.passed} passed, {cell.failed} failed")
    # As wide as it needs, even if the output goes to a file.
    Console(width=None if console.is_terminal else 200).print(to_table(cells))
    return 0 if all(cell.good for cell in cells) else 1


if __name__ == "__main__":
    sys.exit(main())
