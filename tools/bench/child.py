# SPDX-License-Identifier: BSD-3-Clause
"""Processes that a benchmark starts."""

from __future__ import annotations

import os
import sys


def environment(**changes):
    """Return the environment of a process that finds the modules that this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **changes}
