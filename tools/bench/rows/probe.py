# SPDX-License-Identifier: BSD-3-Clause
"""What a row consists of: two probes, one on a reference and one on torch_ext."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

import torch_ext

CHAIN = 50  # nodes in a chain
SIZE = 4  # elements of a tensor: few, to time the call and not arithmetic


@dataclass(frozen=True)
class Probe:
    """Something to time.

    Args:
        call: what is timed, with grad mode on.
        floor: the part of it that is not overhead, timed with grad mode off and subtracted.
        units: how many things one call does; the time is divided by it.
    """

    call: Callable[[], object]
    floor: Callable[[], object] | None = None
    units: int = 1


@dataclass(frozen=True)
class Row:
    """A comparison: ``reference`` and ``ours`` (what is measured) each create a fresh probe.

    A probe creates its tensors when it is created, on torch's default device.
    """

    name: str
    title: str
    reference: Callable[[], Probe]
    ours: Callable[[], Probe]
    is_step: bool = False  # of training: steps per second are shown as well


def against_stock(name, title, make, **options):
    return Row(
        name,
        title,
        lambda: make(torch.autograd.Function),
        lambda: make(torch_ext.Function),
        **options,
    )
