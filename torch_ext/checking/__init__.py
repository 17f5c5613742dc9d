# SPDX-License-Identifier: BSD-3-Clause
"""One Function of a user's on stock torch and on torch_ext: what holds, whether both agree, what a call costs.

================  ==============================================================
``target``        finding the class that is named on a command line
``inputs``        the calls it is tried with: of a file, or of a program
``questions``     what is asked of it
``check``         :func:`check`: each question on both sides
``bench``         what a call costs on both sides, and at least
================  ==============================================================
"""

from .check import Answer, Result, check
from .inputs import Call, NotCalledError, call, caught_in, from_file
from .questions import QUESTIONS
from .target import NotFoundError, Target, find_class

__all__ = [
    "QUESTIONS",
    "Answer",
    "Call",
    "NotCalledError",
    "NotFoundError",
    "Result",
    "Target",
    "call",
    "caught_in",
    "check",
    "find_class",
    "from_file",
]
