# SPDX-License-Identifier: BSD-3-Clause
"""The commands of ``torch-ext``, and the other ways to start programs on torch_ext.

Importing it imports neither torch nor torch_ext, so that it answers at once, and where these are broken.

=================  ==============================================================
``app``            the command line; ``commands/`` has a file for each command
``running``        what ``torch-ext run`` does
``pytest_plugin``  ``pytest --torch-ext``; ``testing/`` has what it does
``startup``        how torch_ext gets into programs that don't know of it
=================  ==============================================================

PYTEST_DONT_REWRITE: as in torch_ext.
"""

import sys
from typing import Any


def main() -> None:
    """Runs the command line in ``sys.argv`` and ends the process."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(f"torch-ext: its commands need {error.name}, and that is not installed: pip install 'torch_ext[cli]'")
    from . import startup

    # Each command decides by itself what runs on torch_ext.
    startup.end()
    sys.exit(_status_of(app))


def _status_of(app: Any) -> int:
    """Runs the command, and returns the status to end with. A wrong call is told in one line."""
    import typer

    # typer keeps the name of this class to itself.
    usage_error: Any = typer.BadParameter.__base__
    try:
        return int(app(prog_name="torch-ext", standalone_mode=False) or 0)
    except usage_error as error:
        message = error.format_message()
        command = "torch-ext" if error.ctx is None else error.ctx.command_path
        if message:  # none if it has shown the help
            typer.echo(f"{command}: {message.rstrip('.')} (see {command} --help)", err=True)
        return int(error.exit_code)
    except typer.Abort:
        return 1
