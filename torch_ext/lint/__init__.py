# SPDX-License-Identifier: BSD-3-Clause
"""A custom Function's own mistakes: by reading it, by trying it, and by looking on while programs run.

Also for stock Functions, whether torch_ext is installed or not.
"""

from .check import check
from .finding import KINDS, Finding, FunctionWarning
from .watch import Watch, watch

__all__ = ["KINDS", "Finding", "FunctionWarning", "Watch", "check", "watch"]
