# SPDX-License-Identifier: BSD-3-Clause
"""A clock that counts instructions, in a process that runs under callgrind."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path


class Instructions:
    """A clock that shows the instructions that this process has executed, on all threads, but not its own.

    Args:
        library: what requests.cpp was compiled to.
        folder: where callgrind writes its files.
    """

    def __init__(self, library, folder):
        self._requests = ctypes.PyDLL(library)
        self._folder = Path(folder)
        self._total = 0

    def start(self):
        self._requests.start_counting()
        self()

    def __call__(self):
        self._requests.pause_counting()
        (file,) = self._folder.glob(f"{os.getpid()}.*")
        with file.open() as lines:
            totals = next(line for line in lines if line.startswith("totals:"))
        file.unlink()
        self._total += int(totals.split()[1])
        self._requests.resume_counting()
        return self._total
