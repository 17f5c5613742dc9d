# SPDX-License-Identifier: BSD-3-Clause
"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys

import torch

from .against import AgainstFailed, measure_with
from .instructions import CountingFailed, Unavailable, baseline, count_instructions
from .measure import measure
from .memory import CAN_COUNT, measure_memory
from .report import to_json
from .rows import ROWS

COUNTS = 3  # how often a row is counted before --check believes that it has risen

DESCRIPTION = """\
Measure what a call of a custom Function costs on torch_ext and on stock torch.

Both are timed in one process, in short blocks taken in turns and in random order, with the garbage
collector off; figures are medians, of CPU time or, on a GPU, of real time. "Overhead" is
Function.apply less the same forward called directly under no_grad. The reference is stock
torch.autograd.Function; in the rows view_as and cat it is a C++ node of torch's own, and in those of anomaly mode,
which also state its memory, the plain training step.

With --instructions valgrind counts the same rows, on all cores. That is as exact on a busy machine, and takes
minutes.
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
        metavar="ROW",
        help=f"measure only these: {', '.join(names)}",
    )
    parser.add_argument("--rounds", type=int, help="blocks of each kind (default: 200)")
    parser.add_argument("--block-ms", type=float, help="least length of a block (default: 2)")
    parser.add_argument("--quick", action="store_true", help="a look: 20 rounds of 0.2 ms blocks")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default: 1)")
    parser.add_argument("--device", default="cpu", help="where the tensors are (default: cpu)")
    parser.add_argument("--instructions", action="store_true", help="count instructions too")
    parser.add_argument("--no-times", dest="times", action="store_false", help="with it: leave the times out")
    parser.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="PYTHON",
        help="run the rows with these interpreters too, which may have another torch",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"exit with 1 if a goal is missed; with --instructions, if a ratio of them is more than "
        f"{baseline.TOLERANCE} above that in {baseline.FILE.name}",
    )
    parser.add_argument("--update", action="store_true", help=f"write the counted ratios to {baseline.FILE.name}")
    options = parser.parse_args(arguments)
    rounds, block_ms = (20, 0.2) if options.quick else (200, 2.0)
    options.rounds = rounds if options.rounds is None else options.rounds
    options.block_ms = block_ms if options.block_ms is None else options.block_ms
    if options.rounds < 2 or options.block_ms <= 0 or options.threads < 1:
        parser.error("needed: at least 2 rounds, 1 thread, and blocks longer than 0 ms")
    options.device = to_device(options.device, parser)
    if not options.instructions and (not options.times or options.update):
        parser.error("--no-times and --update go with --instructions")
    only_counted = [row.name for row in ROWS if row.name in (options.rows or ()) and not row.is_timed]
    if only_counted and not options.instructions:
        parser.error(f"takes too long to be timed, and goes with --instructions: {', '.join(only_counted)}")
    if options.instructions and options.device.type != "cpu":
        parser.error("--instructions counts those of the CPU: leave --device out")
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


def chosen_rows(options):
    """Those asked for; by default all that can be timed, or counted, and of these only what --check looks at."""
    if options.rows:
        return [row for row in ROWS if row.name in options.rows]
    if options.instructions:
        return [row for row in ROWS if row.is_checked or not options.check]
    return [row for row in ROWS if row.is_timed]


@contextlib.contextmanager
def progress(title, total):
    """A progress bar on stderr, so that stdout has nothing but the outcome; yields what advances it."""
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:  # in an interpreter of --against, which needs only torch
        yield lambda: None
        return
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


def count_rows(rows, options):
    """Return the rows' instructions. For --check those that seem to have risen are counted up to three times.

    Where objects lie in memory decides how long some searches take, which makes up to a percent: what has really
    risen has so each time.
    """
    counts, names = {}, [row.name for row in rows]
    for _ in range(COUNTS if options.check else 1):
        with progress("counting", len(names)) as advance:
            again = count_instructions(names, advance)
        for name, counted in again.items():
            counts[name] = min(counted, counts.get(name, counted), key=lambda each: each.ratio)
        names = baseline.risen(to_json(rows, counts=counts))
        if not names:
            break
    return counts


def measure_here(options):
    """Return the outcome in this interpreter, as ``to_json`` has it."""
    rows = chosen_rows(options)
    torch.set_num_threads(options.threads)
    counts, results, memory = {}, {}, None
    if options.instructions:
        counts = count_rows(rows, options)
    if options.times:
        with progress("measuring", options.rounds) as advance:
            timed = [row for row in rows if row.is_timed]
            results = measure(timed, options.rounds, options.block_ms / 1e3, advance, options.device)
        memory = measure_memory() if CAN_COUNT and any("anomaly mode" in row.title for row in rows) else None
    settings = {"rounds": options.rounds, "block_ms": options.block_ms}
    return to_json(rows, results, counts, settings, memory, options.device)


def measure_there(python, options):
    """Return the outcome in another interpreter."""
    arguments = ["--rounds", str(options.rounds), "--block-ms", str(options.block_ms)]
    arguments += ["--threads", str(options.threads), "--device", str(options.device)]
    arguments += ["--instructions"] * options.instructions + ["--no-times"] * (not options.times)
    arguments += ["--rows", *options.rows] if options.rows else []
    return measure_with(python, arguments)


def show(outcomes):
    from rich.console import Console

    from .tables import legend, to_memory_table, to_table

    console = Console()
    for outcome in outcomes:
        about = outcome["machine"]
        console.print(", ".join(f"{key} {about[key]}" for key in about), highlight=False)
    console.print(to_table(outcomes))
    for row in outcomes[0]["rows"]:
        console.print(legend(row), highlight=False)
    for outcome in outcomes:
        if outcome["anomaly_memory"] is not None:
            console.print(to_memory_table(outcome["anomaly_memory"]))


def failures(options, outcomes):
    """Return whether --check fails; says on stderr which rows it is for."""
    if not options.instructions:
        return any(row.get("met") is False for outcome in outcomes for row in outcome["rows"])
    wrong, unknown = baseline.check(outcomes)
    for line in (*unknown, *wrong):
        print(line, file=sys.stderr)
    return bool(wrong)


def main(arguments=None):
    options = parse_options(arguments)
    try:
        outcomes = [measure_here(options), *(measure_there(python, options) for python in options.against)]
    except (AgainstFailed, CountingFailed, Unavailable) as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        first, *others = outcomes
        print(json.dumps({**first, "against": others} if others else first, indent=2))
    else:
        show(outcomes)
    failed = options.check and failures(options, outcomes)
    if options.update:
        baseline.update(outcomes)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
