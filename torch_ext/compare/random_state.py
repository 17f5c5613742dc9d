# SPDX-License-Identifier: BSD-3-Clause
"""The random numbers to come: what has to be the same for two runs to be alike."""

import random
import sys
from typing import Any

import torch


class RandomState:
    """The state of Python's, torch's and numpy's random numbers as it was when this was created."""

    def __init__(self) -> None:
        self._random = random.getstate()
        self._torch = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        numpy: Any = sys.modules.get("numpy")
        self._numpy = None if numpy is None else numpy.random.get_state()

    def restore(self) -> None:
        """Makes the same random numbers come again."""
        random.setstate(self._random)
        torch.set_rng_state(self._torch)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)
        elif torch.cuda.is_initialized():  # meanwhile: it began with the seed that torch has
            torch.cuda.manual_seed_all(torch.initial_seed())
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)
