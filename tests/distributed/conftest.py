# SPDX-License-Identifier: BSD-3-Clause
"""Ranks, which live as long as the tests of a file run."""

import pytest
import torch
from harness import devices
from launching import Ranks


@pytest.fixture(scope="module")
def ranks(request):
    """A function that returns the :class:`Ranks` of a group of so many, on GPUs if ``device`` is None and there are."""
    has_gpu = request.config.stash[devices.CHOICE].has_gpu
    groups = {}

    def group(count, device=None):
        if device is None:
            device = "cuda" if has_gpu and torch.cuda.device_count() >= count else "cpu"
        ranks = groups.get((count, device))
        if ranks is None or not ranks.alive:
            ranks = groups[count, device] = Ranks(count, torch.device(device))
        return ranks

    yield group
    for each in groups.values():
        if each.alive:
            each.close()
