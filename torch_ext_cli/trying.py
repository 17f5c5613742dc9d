# SPDX-License-Identifier: BSD-3-Clause
"""What ``check`` and ``bench`` share: the Function that is named, and the calls to try it with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import refuse

if TYPE_CHECKING:
    from torch_ext.checking import Call

TargetArgument = Annotated[
    str,
    typer.Argument(metavar="CLASS", help="The Function: module:Class or file.py:Class.", show_default=False),
]
ArgumentsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ARGS]...", help="The arguments of --script; behind -- if they have dashes.", show_default=False
    ),
]
InputsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A Python file with inputs = [(x, y), ...], or a function of that name that returns such a list.",
        show_default=False,
    ),
]
ScriptOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="A program that calls the Function: its first calls are the inputs.", show_default=False
    ),
]
CallsOption = Annotated[int, typer.Option(metavar="N", min=1, help="How many calls of --script, no two of one form.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def function_and_calls(
    command: str, target: str, inputs: Path | None, script: Path | None, arguments: list[str] | None, most: int
) -> tuple[type, list[Call]]:
    """The class and the calls that a command line names; ends with one line if they aren't there."""
    if (inputs is None) == (script is None):
        refuse(command, "say what to call it with: --inputs FILE.py or --script PROGRAM.py", 2)
    if inputs is not None and arguments:
        refuse(command, f"arguments are for the program of --script: {' '.join(arguments)}", 2)
    checking = _checking(command)
    try:
        name = checking.Target(target)
        if inputs is not None:
            return name.load(), checking.from_file(str(inputs))
        cls, calls, ended = checking.caught_in(str(script), arguments or [], name, most)
    except checking.NotFoundError as error:
        refuse(command, str(error), 2)
    except checking.NotCalledError as error:
        refuse(command, str(error), 1)
    if ended:
        typer.echo(f"torch-ext {command}: {script} ended by {ended}; what it had called until then is tried", err=True)
    return cls, calls


def _checking(command: str) -> Any:
    try:
        import torch_ext

        torch_ext.load()
        from torch_ext import checking
    except ImportError as error:
        refuse(command, str(error))
    return checking
