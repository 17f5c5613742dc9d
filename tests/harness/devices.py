# SPDX-License-Identifier: BSD-3-Clause
"""Where the tests run: the device that ``--device`` asks for, or the CPU if there is no GPU."""

import importlib.util
from dataclasses import dataclass

import pytest
import torch

from . import standin


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

    @property
    def runs_behind(self):
        """Whether the tests of tests/device, which need a device with streams, are run."""
        return self.device.type != "cpu"

    def leaves_out(self, path):
        """Whether there is nothing to run this file, in tests/cuda or tests/device, on."""
        if path.name == "test_standin.py":
            return self.device.type != standin.NAME
        there_is = self.has_gpu if path.parent.name == "cuda" else self.runs_behind
        return not there_is or (self.has_gpu and path.name in _lacking())

    def cannot_run(self, name):
        """Whether not even stock torch can run the test with this name there."""
        return self.device.type == standin.NAME and name.partition("[")[0].endswith(tuple(standin.LEFT_OUT))


def _lacking():
    """The files that need more than a GPU, with what is missing."""
    lacking = {}
    if importlib.util.find_spec("triton") is None:
        lacking["test_triton.py"] = "Triton"
    if torch.cuda.device_count() < 2:
        lacking["test_two_devices.py"] = "second GPU"
    return lacking


def choose(name):
    """The choice for ``--device name``."""
    if name.partition(":")[0] == standin.NAME:
        standin.load()
        device = torch.device(name)
        return Choice(device, f"device: {device}, two stand-ins for a GPU; the tests of tests/cuda are left out")
    device = torch.device(name)
    if device.type != "cuda":
        return Choice(
            device,
            f"device: {device}; the tests of tests/device and tests/cuda are left out (--device standin, or cuda, "
            "runs them)",
        )
    if torch.cuda.is_available():
        without = "".join(f"; no {what}: {name} is left out" for name, what in _lacking().items())
        return Choice(device, f"device: {device}, {torch.cuda.get_device_name(device)}{without}")
    return Choice(
        torch.device("cpu"),
        f"no GPU that torch {torch.__version__} can use: the tests of tests/device and tests/cuda were left out; "
        "the CPU part runs",
        as_asked=False,
    )


CHOICE = pytest.StashKey[Choice]()  # the key in pytest's config
