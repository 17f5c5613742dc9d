# SPDX-License-Identifier: BSD-3-Clause
"""Text of the stacks that anomaly mode has captured."""

import linecache
import sys
import traceback


def format_lines(positions: list[tuple[str, int, str]]) -> list[str]:
    """What ``traceback.format_stack()`` gives for a stack of (file, line, function), outermost first."""
    return traceback.format_list([(*position, _source_line(position)) for position in positions])


def to_frames(positions: list[tuple[str, int, str]]) -> list[tuple[str, int, str, str]]:
    """(file, line, function, source line) for a stack of (file, line, function)."""
    return [(*position, _source_line(position)) for position in positions]


def _source_line(position: tuple[str, int, str]) -> str:
    file, line, _ = position
    linecache.checkcache(file)
    text = linecache.getline(file, line)
    if not text and not file.startswith("<"):
        # Only the module's loader can read the file, in a zip archive for example.
        for module in list(sys.modules.values()):
            if getattr(module, "__file__", None) == file:
                text = linecache.getline(file, line, module.__dict__)
                break
    return text.strip()
