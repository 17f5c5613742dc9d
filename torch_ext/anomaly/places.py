# SPDX-License-Identifier: BSD-3-Clause
"""Lines of the user's code, in stacks and in texts."""

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch

from .facts import Frame

_TORCH = os.path.dirname(torch.__file__) + os.sep
_OURS = str(Path(__file__).resolve().parents[1]) + os.sep

# Of a text; longer source lines are cut off.
_WIDTH = 100


def line_of(frames: Sequence[Frame]) -> Frame | None:
    """The innermost frame that is neither torch's nor torch_ext's; None if there is none."""
    return next((frame for frame in reversed(frames) if not frame.file.startswith((_TORCH, _OURS))), None)


def is_ours(frames: Sequence[Frame]) -> bool:
    """Whether torch_ext itself was looking at something there."""
    return bool(frames) and frames[-1].file.startswith(_OURS)


def is_inside_torch(frames: Sequence[Frame], part: str) -> bool:
    """Whether a frame further in than the user's line is in ``part`` of torch, "optim" for example."""
    prefix = os.path.join(_TORCH, part)
    for frame in reversed(frames):
        if frame.file.startswith(prefix):
            return True
        if not frame.file.startswith((_TORCH, _OURS)):
            return False
    return False


def at(frames: Sequence[Frame]) -> str:
    """Where that is, for a text: " at train.py:12"; with no such line, " at a place that is not known"."""
    frame = line_of(frames)
    return " at a place that is not known" if frame is None else f" at {os.path.basename(frame.file)}:{frame.line}"


def with_line(text: str, frames: Sequence[Frame]) -> str:
    """``text`` and where that is, with as much of the source line as there is room for.

    "made by AddBackward0" becomes "made by AddBackward0 at train.py:12: y = x + 1".
    """
    frame = line_of(frames)
    head = text + at(frames)
    if frame is None or not frame.source:
        return head
    room = max(_WIDTH - len(head) - 2, 20)
    source = frame.source if len(frame.source) <= room else frame.source[: room - 3] + "..."
    return f"{head}: {source}"


def wrapped(text: str) -> str:
    """``text`` in lines that are not too long."""
    return "\n".join(textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False))
