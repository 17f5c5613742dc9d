# SPDX-License-Identifier: BSD-3-Clause
"""Ranks, which live as long as the tests of a file run."""

import pytest
import torch
from harness import devices
from launching import Ranks


@pytest.fixture(scope="module")
def ranks(request):
    """A function that returns the :class:`Ranks` of a group of so many."""
    choice = request.config.stash[devices.CHOICE]
    groups = {}

    def group(count):
        if count not in groups or not groups[count].alive:
            gpus = torch.cuda.device_count() if choice.has_gpu else 0
            groups[count] = Ranks(count, torch.device("cuda" if gpus >= count else "cpu"))
        return groups[count]

    yield group
    for each in groups.values():
        if each.alive:
            each.close()
