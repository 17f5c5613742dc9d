# SPDX-License-Identifier: BSD-3-Clause
"""``pytest --torch-ext``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from torch_ext.compare.sides import rebind

if TYPE_CHECKING:
    from torch_ext.compare import Sides

MARKER = "torch_ext_stock"


class Running:
    """Runs each test on torch_ext, or if it is marked so on stock torch."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Before the first fixture. If a test has left something in the way, the next ones say so."""
        self._sides.take(stock=self.is_stock(item))
        callspec: Any = getattr(item, "callspec", None)
        if callspec is not None:
            rebind(callspec.params)

    def is_stock(self, item: pytest.Item) -> bool:
        """Whether the run to come is one on stock torch."""
        return item.get_closest_marker(MARKER) is not None
