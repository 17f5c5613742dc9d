# SPDX-License-Identifier: BSD-3-Clause
"""Both runs of a test begin alike."""

from __future__ import annotations

from typing import Any

import pytest

from torch_ext.compare.random_state import RandomState


class Start:
    """What a test begins with: the random numbers to come, and what a run leaves on its item."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self._random = RandomState()
        self._markers = list(item.own_markers)
        self._properties = list(item.user_properties)
        doctest = getattr(item, "dtest", None)  # its names are cleared when it has run
        self._names = None if doctest is None else dict(doctest.globs)

    def again(self) -> None:
        """Makes the next run begin so."""
        self._random.restore()
        item: Any = self._item
        item.own_markers[:] = self._markers
        item.user_properties[:] = self._properties
        item._report_sections.clear()
        if self._names is not None:
            item.dtest.globs.clear()
            item.dtest.globs.update(self._names)
