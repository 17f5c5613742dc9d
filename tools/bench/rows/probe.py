# SPDX-License-Identifier: BSD-3-Clause
"""What a row consists of: two probes, one on a reference and one on torch_ext."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

import torch_ext

CHAIN = 50  # nodes in a chain
SIZE = 4  # elements of a tensor: few, to time the call and not arithmetic
BASES = {"reference": torch.autograd.Function, "ours": torch_ext.Function}


@dataclass(frozen=True)
class Probe:
    """Something to time.

    Args:
        call: what is timed, with grad mode on.
        floor: the part of it that is not overhead, timed with grad mode off and subtracted.
        units: how many things one call does; the time is divided by it.
        context: what both run in; entering it isn't timed.
    """

    call: Callable[[], object]
    floor: Callable[[], object] | None = None
    units: int = 1
    context: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True)
class Row:
    """A comparison: ``reference`` and ``ours`` (what is measured) each create a fresh probe.

    A probe creates its tensors when it is created, on torch's default device.

    Args:
        is_step: a step of training: steps per second are shown as well.
        is_timed: False if it is only counted in instructions, because a call takes too long to be repeated often.
        is_checked: False if it says nothing of torch_ext, so that a rise of its ratio is no mistake.
    """

    name: str
    title: str
    reference: Callable[[], Probe]
    ours: Callable[[], Probe]
    is_step: bool = False
    is_timed: bool = True
    is_checked: bool = True


def against_stock(name, title, make, **options):
    return Row(
        name,
        title,
        lambda: make(torch.autograd.Function),
        lambda: make(torch_ext.Function),
        **options,
    )
