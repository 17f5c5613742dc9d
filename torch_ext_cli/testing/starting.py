# SPDX-License-Identifier: BSD-3-Clause
"""Both runs of a test begin alike."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest
import torch


class Start:
    """What a test begins with: the random numbers to come, and what a run leaves on its item."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self._random = random.getstate()
        self._torch = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        numpy: Any = sys.modules.get("numpy")
        self._numpy = None if numpy is None else numpy.random.get_state()
        self._markers = list(item.own_markers)
        self._properties = list(item.user_properties)
        doctest = getattr(item, "dtest", None)  # its names are cleared when it has run
        self._names = None if doctest is None else dict(doctest.globs)

    def again(self) -> None:
        """Makes the next run begin so."""
        random.setstate(self._random)
        torch.set_rng_state(self._torch)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)
        elif torch.cuda.is_initialized():  # by the run before: it began with the seed that torch has
            torch.cuda.manual_seed_all(torch.initial_seed())
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)
        item: Any = self._item
        item.own_markers[:] = self._markers
        item.user_properties[:] = self._properties
        item._report_sections.clear()
        if self._names is not None:
            item.dtest.globs.clear()
            item.dtest.globs.update(self._names)
