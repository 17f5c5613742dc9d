# SPDX-License-Identifier: BSD-3-Clause
"""``torch-ext enable`` and ``torch-ext disable``."""

from pathlib import Path
from typing import Annotated

import typer

from ..startup import VARIABLE, pth

User = Annotated[bool, typer.Option("--user", help="Your own packages (python -m site --user-site), not all users'.")]


def enable(user: User = False) -> None:
    """Let any Python program of this environment run on torch_ext, if TORCH_EXT=1 is set.

    Writes one file, torch_ext.pth, into the environment's packages. Without the variable nothing changes. With it,
    torch_ext is put in place as soon as a program has imported torch; with TORCH_EXT=strict such an import fails if
    torch_ext can't be used.

    Examples:

        torch-ext enable

        TORCH_EXT=1 python train.py
    """
    path, changed = _do(pth.write, user, "written")
    if not pth.works():
        pth.remove(user)
        _refuse(f"Python does not read {path}: it is removed again")
    typer.echo(f"{'written' if changed else 'there already'}: {path}")
    typer.echo(f"Programs of this environment run on torch_ext if {VARIABLE}=1 is set. torch-ext disable removes it.")


def disable(user: User = False) -> None:
    """Take back what enable did: remove torch_ext.pth from this environment.

    Example:

        torch-ext disable
    """
    path, changed = _do(pth.remove, user, "removed")
    typer.echo(f"{'removed' if changed else 'not there'}: {path}")
    left = pth.find()
    if left is not None:
        typer.echo(f"There is another one: {left}")


def _do(change, user, what):
    pass
