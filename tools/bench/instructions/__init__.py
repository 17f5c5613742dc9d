# SPDX-License-Identifier: BSD-3-Clause
"""Counts the instructions of rows: they are the same on a busy machine, and almost the same on another processor.

- ``valgrind``: finds or installs it
- ``run``: starts a process under its tool callgrind
- ``counting``: what that process does, by its ``clock``
- ``baseline``: the ratios that are checked in, and what has risen since
"""

from .run import Count, CountingFailed, count_instructions
from .valgrind import Unavailable

__all__ = ["Count", "CountingFailed", "Unavailable", "count_instructions"]
