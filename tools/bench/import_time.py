# SPDX-License-Identifier: BSD-3-Clause
"""What importing torch_ext takes, torch being imported already: ``python -m tools.bench.import_time``.

Each import is one of a fresh process, which has the bytecode of all modules as any second import does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

from .child import environment

GOAL = 8.0  # milliseconds of CPU time

IMPORT = """
import time
import torch
begin = time.process_time()
import torch_ext
print((time.process_time() - begin) * 1e3)
"""


def milliseconds():
    """Return the CPU time of one import."""
    variables = environment()
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run([sys.executable, "-c", IMPORT], env=variables, stdout=subprocess.PIPE, check=True)
    return float(done.stdout)


def measure_import(runs):
    """Return median and quartiles of ``runs`` imports, at least 2, in milliseconds, and whether the goal is met."""
    milliseconds()  # writes the bytecode
    times = [milliseconds() for _ in range(runs)]
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return {"ms": median, "quartiles": (low, high), "runs": runs, "goal": GOAL, "met": median <= GOAL}


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tools.bench.import_time", description=__doc__)
    parser.add_argument("--runs", type=int, help="processes that are timed (default: 21)")
    parser.add_argument("--quick", action="store_true", help="a look: 3 processes")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a line")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the goal is missed")
    options = parser.parse_args(arguments)
    if options.runs is None:
        options.runs = 3 if options.quick else 21
    if options.runs < 2:
        parser.error("needed: at least 2 runs")
    outcome = measure_import(options.runs)
    low, high = outcome["quartiles"]
    line = f"import torch_ext: {outcome['ms']:.1f} ms of CPU time, quartiles {low:.1f}-{high:.1f}, goal {GOAL:.0f}"
    print(json.dumps(outcome, indent=2) if options.json else line)
    return 1 if options.check and not outcome["met"] else 0


if __name__ == "__main__":
    sys.exit(main())
