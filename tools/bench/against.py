# SPDX-License-Identifier: BSD-3-Clause
"""Runs the benchmark with another interpreter, such as one that has another torch."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


class AgainstFailed(Exception):
    """The other interpreter didn't run the benchmark; the text says why. What it said itself is on stderr."""


def measure_with(python, arguments):
    """Return the outcome of this checkout's benchmark, run by ``python`` with ``arguments``.

    Nothing is taken from this interpreter. The other needs torch, and what compiles the extension, if none fits yet.

    Raises:
        AgainstFailed: it can't be started, or fails.
    """
    command = [python, "-m", "tools.bench", "--json", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise AgainstFailed(f"--against {python}: {error}") from error
    return json.loads(done.stdout)
