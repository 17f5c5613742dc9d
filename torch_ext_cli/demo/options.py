# SPDX-License-Identifier: BSD-3-Clause
"""The options of the demo."""

import argparse
from pathlib import Path
from typing import Any

_ABOUT = """
Train a spiking network on handwritten digits, on stock torch and on torch_ext.

A spiking network shows the cost of a custom autograd Function: every layer
calls one in every time step, on small tensors. Two copies of one network,
created from the same seed, take turns of one epoch each: one on stock torch,
one on torch_ext. All losses and all weights have to agree bit for bit; if they
do not, the exit status is 1.
"""

STYLES = "setup_context", "ctx"


def parse_options(arguments: list[str] | None = None, program: str | None = None) -> argparse.Namespace:
    """The options in ``arguments``, by default those of the process, for a program of that name."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=_ABOUT,
        epilog="Example:\n\n  torch-ext demo --epochs 3 --output digits.png\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def option(name: str, default: Any, text: str, **more: Any) -> None:
        parser.add_argument(name, default=default, help=f"{text} (default: {default})", **more)

    option("--epochs", 12, "passes over the images, for each implementation", type=positive)
    option("--steps", 25, "time steps for which an image is shown", type=positive)
    option("--hidden", 64, "neurons in each of the two spiking layers", type=positive)
    option("--batch", 32, "images in a training step", type=positive)
    option("--rate", 2e-3, "learning rate of Adam", type=float)
    option("--seed", 0, "seed of weights, order, spike trains, train/test split", type=int)
    option("--style", "setup_context", "how the custom Function is written", choices=STYLES)
    option("--threads", 1, "CPU threads torch uses inside an operator", type=positive)
    option("--device", "cpu", "where to train: cpu, cuda, cuda:1, ...", type=torch_device)
    option("--output", Path("spiking_digits.png"), "PNG file for the picture", type=Path)
    return parser.parse_args(arguments)


def torch_device(text: str) -> Any:
    """A torch.device, for which alone torch is imported."""
    import torch

    try:
        return torch.device(text)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def positive(text: str) -> int:
    """An int of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number
