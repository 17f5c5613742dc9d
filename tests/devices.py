"""Where the tests run: the device that ``--device`` asks for, or the CPU where there is no GPU."""

from dataclasses import dataclass

import pytest
import torch


@dataclass(frozen=True)
class Choice:
    """A device for the parity scenarios.

    Attributes:
        device: where they make their tensors.
        note: what is run and what is left out, for pytest's header; repeated at its end where it is not what was
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


def choose(name):
    """The choice for ``--device name``."""
    device = torch.device(name)
    if device.type != "cuda":
        return Choice(device, f"device: {device}; the tests of tests/cuda are left out (--device cuda runs them)")
    if torch.cuda.is_available():
        return Choice(device, f"device: {device}, {torch.cuda.get_device_name(device)}")
    return Choice(
        torch.device("cpu"),
        f"no GPU that torch {torch.__version__} can use: the tests of tests/cuda were left out; the CPU part runs",
        as_asked=False,
    )


CHOICE = pytest.StashKey[Choice]()  # where pytest's config has it
