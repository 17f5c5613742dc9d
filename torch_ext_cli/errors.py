# SPDX-License-Identifier: BSD-3-Clause
"""How a command says what is wrong."""

from typing import NoReturn

import typer


def refuse(command: str, problem: str, status: int = 1) -> NoReturn:
    """Ends the command with one line on stderr: status 2 if it was called wrongly, else 1."""
    typer.echo(f"torch-ext {command}: {problem}", err=True)
    raise typer.Exit(status)
