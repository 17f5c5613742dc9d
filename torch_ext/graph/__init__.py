# SPDX-License-Identifier: BSD-3-Clause
"""The graph of nodes that autograd builds: why a parameter has no gradient, and where its nodes were made."""

from .explain import Explanation, explain
from .noting import noting, set_noting

__all__ = ["Explanation", "explain", "noting", "set_noting"]
