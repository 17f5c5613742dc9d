# SPDX-License-Identifier: BSD-3-Clause
"""What can be asked of the graph of nodes that autograd builds.

Why a parameter has no gradient, where nodes were made, what memory they keep, which graphs are alive; and its picture.
"""

from .draw import draw
from .explain import Explanation, explain
from .live import Live, LiveRow, live
from .memory import SavedMemory, saved_memory
from .noting import noting, set_noting
from .summary import Summary, SummaryRow, summary

__all__ = [
    "Explanation",
    "Live",
    "LiveRow",
    "SavedMemory",
    "Summary",
    "SummaryRow",
    "draw",
    "explain",
    "live",
    "noting",
    "saved_memory",
    "set_noting",
    "summary",
]
