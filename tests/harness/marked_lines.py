# SPDX-License-Identifier: BSD-3-Clause
"""Lines of a test's program that a word in a comment marks, and the lines that a report names."""

import inspect
import re

from torch_ext.anomaly.places import line_of


def marked(program):
    """The numbers of the lines with each word in ``program``, as often as they have it: ``# node, change``."""
    lines, first = inspect.getsourcelines(program)
    found = {}
    for number, text in enumerate(lines, first):
        comment = re.search(r"  # ([a-z]+(?:, [a-z]+)*)$", text.rstrip())
        for word in comment[1].split(", ") if comment else ():
            found.setdefault(word, []).append(number)
    return found


def line(frames):
    """The number of the innermost line outside torch and torch_ext; None if there is none."""
    frame = line_of(frames)
    return None if frame is None else frame.line
