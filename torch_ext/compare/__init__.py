# SPDX-License-Identifier: BSD-3-Clause
"""Stock torch and torch_ext side by side, on a user's own program or tests."""

from .sides import Sides

__all__ = ["Sides"]
