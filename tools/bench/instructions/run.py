# SPDX-License-Identifier: BSD-3-Clause
"""Starts the process that counts, under callgrind, and reads what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .. import child
from .valgrind import compile_requests, find_valgrind

ROOT = Path(__file__).parents[3]
MOST_JOBS = 16  # each takes some hundred megabytes


class CountingFailed(Exception):
    """The process that counts failed; the text is the end of what it said."""


@dataclass(frozen=True)
class Count:
    """The instructions of one unit of a row."""

    reference: float
    ours: float

    @property
    def ratio(self):
        return self.ours / self.reference


def count_instructions(names, on_row=lambda: None):
    """Count rows, on all cores.

    Args:
        names: the rows' names.
        on_row: called after each row.

    Returns: a ``Count`` by name, in the order of ``names``.

    Raises:
        Unavailable: valgrind can't be had.
        CountingFailed: a row can't be counted.
    """
    jobs = min(len(os.sched_getaffinity(0)), MOST_JOBS)
    counts = {}
    with tempfile.TemporaryDirectory(prefix="torch_ext-instructions-") as folder:
        command = under_callgrind(folder, [str(compile_requests(folder)), folder, str(jobs), *names])
        said = Path(folder, "said")
        with (
            said.open("w") as errors,
            subprocess.Popen(
                command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=errors, text=True
            ) as process,
        ):
            for line in process.stdout:
                name, reference, ours = json.loads(line)
                counts[name] = Count(reference, ours)
                on_row()
        if process.returncode or len(counts) < len(names):
            raise CountingFailed(said.read_text()[-4000:] or f"exit status {process.returncode}")
    return {name: counts[name] for name in names}


def under_callgrind(folder, arguments):
    """The command that counts; torch is imported before counting begins, which is slow."""
    options = ["--tool=callgrind", "--quiet", "--instr-atstart=no", "--dump-line=no"]
    options.append(f"--callgrind-out-file={folder}/%p")
    return [find_valgrind(), *options, sys.executable, "-m", f"{__package__}.counting", *arguments]


def environment():
    """The environment in which two runs count the same: one order of hashes, one thread, this path."""
    return child.environment(PYTHONHASHSEED="0", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
