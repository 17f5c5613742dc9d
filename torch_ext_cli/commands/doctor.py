# SPDX-License-Identifier: BSD-3-Clause
"""``torch-ext doctor``."""

from typing import Annotated

import typer
from rich.console import Console

from ..doctor.examine import examine
from ..doctor.findings import findings, is_well
from ..doctor.report import show, to_json

Json = Annotated[bool, typer.Option("--json", help="Write it as JSON.")]


def doctor(as_json: Json = False) -> None:
    """Say what is installed, and what is wrong with it.

    Shows torch_ext and its extension, torch, Python, GPUs, the compiler, the
    cache, what torch-ext enable has written and the variables that matter, and
    for each thing that is wrong what to do. Nothing is compiled. Ends with
    status 1 if something is wrong.

    Examples:
        torch-ext doctor

        torch-ext doctor --json | python -m json.tool
    """
    facts = examine()
    found = findings(facts)
    if as_json:
        typer.echo(to_json(facts, found))
    else:
        show(facts, found, Console(highlight=False))
    if not is_well(found):
        raise typer.Exit(1)
