# SPDX-License-Identifier: BSD-3-Clause
"""What is measured: each row compares a probe on torch_ext with one on a reference.

A Function is written once over a base class and created for both bases, so nothing but the base
differs. To add a row, write a function that creates its probe, and put a ``Row`` into ``ROWS`` of the
file that has its kind:

- ``calls``: a call of ``apply``
- ``chains``: forward and backward through many nodes
- ``integrations``: calls through other parts of torch, under ``torch_ext.install()``
- ``steps``: training steps
- ``anomaly``: training steps in anomaly mode

``probe`` says what a row is.
"""

from . import anomaly, calls, chains, integrations, steps
from .anomaly import DEPTH, at_depth
from .calls import identity_function
from .probe import BASES, CHAIN, SIZE, Probe, Row, against_stock

__all__ = [
    "BASES",
    "CHAIN",
    "DEPTH",
    "ROWS",
    "SIZE",
    "Probe",
    "Row",
    "against_stock",
    "at_depth",
    "identity",
    "identity_function",
]

ROWS = (*calls.ROWS, *chains.ROWS, *integrations.ROWS, *steps.ROWS, *anomaly.ROWS)
