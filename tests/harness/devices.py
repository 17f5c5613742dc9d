# SPDX-License-Identifier: BSD-3-Clause
"""Where the tests run: the device that ``--device`` asks for, or the CPU if there is no GPU."""

import importlib.util
from dataclasses import dataclass

import pytest
import torch


@dataclass(frozen=True)
class Choice:
    """A device for the parity scenarios.

    Attributes:
        device: where they create their tensors.
        note: what is run and what is left out, for pytest's header; repeated at its end if it isn't what was
            asked for.
        as_asked: whether this is the device that was asked for.
    """

    device: torch.device
    note: str
    as_asked: bool = True

    @property
    def has_gpu(self):
        """Whether the tests of tests/cuda, which need one, are run."""
        return self.device.type == "cuda"

    def leaves_out(self, name):
        """Whether there is nothing to run the file with this name in tests/cuda on."""
        return not self.has_gpu or name in _lacking()


def _lacking():
    """The files of tests/cuda that need more than a GPU, with what is missing."""
    lacking = {}
    if importlib.util.find_spec("triton") is None:
        lacking["test_triton.py"] = "Triton"
    if torch.cuda.device_count() < 2:
        lacking["test_two_gpus.py"] = "second GPU"
    return lacking


def choose(name):
    """The choice for ``--device name``."""
    device = torch.device(name)
    if device.type != "cuda":
        return Choice(device, f"device: {device}; the tests of tests/cuda are left out (--device cuda runs them)")
    if torch.cuda.is_available():
        without = "".join(f"; no {what}: tests/cuda/{name} is left out" for name, what in _lacking().items())
        return Choice(device, f"device: {device}, {torch.cuda.get_device_name(device)}{without}")
    return Choice(
        torch.device("cpu"),
        f"no GPU that torch {torch.__version__} can use: the tests of tests/cuda were left out; the CPU part runs",
        as_asked=False,
    )


CHOICE = pytest.StashKey[Choice]()  # the key in pytest's config
