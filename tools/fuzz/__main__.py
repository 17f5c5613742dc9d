# SPDX-License-Identifier: BSD-3-Clause
"""The command line of the fuzzer."""

import argparse
import itertools
import os
import random
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .report import summary, to_table, unused

DESCRIPTION = """\
Run random programs on stock torch and on torch_ext, and compare all that can be seen.

A program is made from the seed and its number, so both together name it for good (as long as the fuzzer's
own tables stay as they are). Each is run on stock torch and on one way of using torch_ext. A program on which
the two differ is made as small as it goes and written to a file that can be run. A crash or a hang of the
worker process counts as a difference too, unless stock torch was at work.

With --threads each is run on four threads at once, which share its Functions and have tensors of their own: each
has to see what a lone one sees. Programs in which threads can see each other are left out.

Exit code: 0; 1 after a difference; 2 if 20,000 programs or more left a facility unused.
"""
_ENOUGH = 20_000


def parse_options(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m tools.fuzz",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--programs", type=int, default=10_000, help="how many (default: 10000)")
    parser.add_argument("--seed", type=int, help="by default another one in each run, which is shown")
    parser.add_argument("--first", type=int, default=0, metavar="INDEX", help="the first number (default: 0)")
    parser.add_argument("--only", type=int, metavar="INDEX", help="show one program, run it here and compare")
    parser.add_argument("--threads", action="store_true", help="run each program on several threads at once")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    parser.add_argument(
        "--patience", type=float, default=300, help="seconds for one run of a program, then it hangs (default: 300)"
    )
    parser.add_argument("--out", type=Path, default=Path("fuzz_found"), help="where programs that differ are written")
    options = parser.parse_args(arguments)
    if options.programs < 1 or (options.workers is not None and options.workers < 1):
        parser.error("needed: at least 1 program and 1 worker")
    if options.seed is None:
        options.seed = random.randrange(2**32) if options.only is None else 0
    return options


def show_one(options, console):
    """Print one program, run it in this process, and print how it ended."""
    from .compare import Difference, prepare
    from .search import check, draw, text_of

    program = draw(options.seed, options.only)
    text = text_of(program, f"Program {options.only} of seed {options.seed}.", options.threads)
    console.print(text, markup=False, highlight=False)
    prepare()
    try:
        run = check(program, on_threads=options.threads)
    except Difference as difference:
        console.print(str(difference), markup=False, highlight=False)
        return 1
    if run is None:
        console.print("not run: threads can see each other in it")
        return 0
    console.print(f"no difference from stock on {program.variant}; steps: {', '.join(run.outcomes)}")
    return 0


def write(found, options, console):
    """Show what was found, and keep it in a file."""
    from .workers import shrink_crash

    if found.difference.startswith("the process ended"):
        found = shrink_crash(options.seed, found, options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"seed_{options.seed}_program_{found.index}.py"
    path.write_text(found.text)
    console.rule(f"program {found.index}")
    console.print(found.text, markup=False, highlight=False)
    console.print("\n".join(found.difference.splitlines()[:60]), markup=False, highlight=False)
    console.print(f"written to {path}", highlight=False)


def main(arguments=None):
    options = parse_options(arguments)
    console = Console(soft_wrap=True)
    if options.only is not None:
        return show_one(options, console)

    from .workers import default_workers, run

    console.print(f"seed {options.seed}")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("programs", total=options.programs)
        counted = itertools.count(0)

        def news(report):
            for found in report.found:
                write(found, options, console)
            progress.advance(bar, report.programs + report.left_out)
            done = progress.tasks[0].completed
            if not console.is_terminal and next(counted) % 20 == 0:
                console.print(f"{done:.0f} of {options.programs} programs", highlight=False)

        indices = range(options.first, options.first + options.programs)
        workers = options.workers or default_workers()
        report = run(options.seed, indices, workers, options.patience, news, on_threads=options.threads)
    console.print(to_table(report))
    for line in summary(report):
        console.print(line, highlight=False)
    if report.found:
        return 1
    enough = report.programs >= _ENOUGH and not options.threads
    return 2 if enough and unused(report) else 0


if __name__ == "__main__":
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    sys.exit(main())
