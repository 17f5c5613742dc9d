# SPDX-License-Identifier: BSD-3-Clause
"""``torch-ext disable``."""

import typer

from ..errors import refuse
from ..startup import pth
from .enable import User, check_user


def disable(user: User = False) -> None:
    """Take back what enable did.

    Example:
        torch-ext disable
    """
    check_user(user, "disable")
    try:
        path, changed = pth.remove(user)
    except OSError as error:
        refuse("disable", f"{pth.folder(user) / pth.NAME} can't be removed: {error.strerror}")
    typer.echo(f"{'Removed' if changed else 'Not there'}: {path}")
    other = pth.find()
    if other is not None:
        typer.echo(f"Another one is there still: {other}")
