# SPDX-License-Identifier: BSD-3-Clause
"""``torch-ext enable``."""

from typing import Annotated

import typer

from ..errors import refuse
from ..startup import VARIABLE, pth

User = Annotated[bool, typer.Option("--user", help="In your own packages, and not in those of the environment.")]


def enable(user: User = False) -> None:
    """Let any program of this environment run on torch_ext if TORCH_EXT=1 is set.

    Writes one file, torch_ext.pth, beside the environment's packages.
    Without the variable nothing changes. With it torch_ext is put in place
    as soon as a program has imported torch, and in no program that doesn't.
    If torch_ext can't be used then, the program goes on without it, and
    says so; with TORCH_EXT=strict the import fails.

    Examples:
        torch-ext enable

        TORCH_EXT=1 python train.py
    """
    check_user(user, "enable")
    try:
        path, changed = pth.write(user)
    except OSError as error:
        refuse("enable", f"{pth.folder(user) / pth.NAME} can't be written: {error.strerror}")
    if not pth.works():
        pth.remove(user)
        refuse("enable", f"Python finds no torch_ext as it starts, so that {path} is of no use: install it first")
    typer.echo(f"{'Written' if changed else 'There already'}: {path}")
    typer.echo(f"Programs of this environment run on torch_ext if {VARIABLE}=1 is set.")


def check_user(user: bool, command: str) -> None:
    """Ends the command if there are no packages of the user's own."""
    if user and not pth.has_user_folder():
        refuse(command, "this Python does not look at packages of your own: leave out --user", 2)
