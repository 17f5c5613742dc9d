# SPDX-License-Identifier: BSD-3-Clause
"""``torch-ext check``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import refuse
from ..trying import (
    ArgumentsArgument,
    CallsOption,
    InputsOption,
    JsonOption,
    ScriptOption,
    TargetArgument,
    function_and_calls,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from torch_ext.checking import Answer, Result


def check(
    target: TargetArgument,
    arguments: ArgumentsArgument = None,
    inputs: InputsOption = None,
    script: ScriptOption = None,
    calls: CallsOption = 3,
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="QUESTION", help="Leave a row of the table out; may be repeated.", show_default=False),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 also for what fails on both sides.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask a Function of yours on stock torch and on torch_ext what works, and compare bit for bit.

    Exits with 1 if torch_ext does something else than stock torch.

    Examples:
        torch-ext check nets.py:Spike --inputs inputs.py
        torch-ext check nets:Spike --script train.py --calls 5 -- --epochs 1
    """
    cls, found = function_and_calls("check", target, inputs, script, arguments, calls)
    from torch_ext.checking import QUESTIONS
    from torch_ext.checking import check as check_on_both

    for each in skip or ():
        if each not in QUESTIONS:
            refuse("check", f"--skip is one of {', '.join(QUESTIONS)}, got {each!r}", 2)
    results = [check_on_both(cls, each, skip or ()) for each in found]
    if as_json:
        typer.echo(json.dumps([each.to_dict() for each in results], indent=2))
    else:
        _show(results)
    if not all(each.is_same and (each.holds or not strict) for each in results):
        raise typer.Exit(1)


def _show(results: list[Result]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for result in results:
        console.print(f"{result.function}({result.inputs})", markup=False, style="bold")
        console.print(_table(result))
        for answer in result.answers:
            _explain(console, answer)
        console.print()
    for finding in dict.fromkeys(str(each) for result in results for each in result.advice):
        console.print(finding, markup=False, soft_wrap=True)


def _table(result: Result) -> Table:
    from rich.table import Table

    table = Table()
    for name in ("", "stock torch", "torch_ext", "same"):
        table.add_column(name)
    colours = {"yes": "", "no": "[yellow]", "-": "[dim]"}
    for each in result.answers:
        same = "yes" if each.is_same else "[bold red]no"
        is_asked = each.stock != "-" or each.ours != "-"
        sides = [colours[side] + side for side in (each.stock, each.ours)]
        table.add_row(each.question, *sides, same if is_asked else "")
    return table


def _explain(console: Console, answer: Answer) -> None:
    """Why an answer isn't yes, and what differs."""
    if (answer.stock, answer.stock_why) == (answer.ours, answer.ours_why):
        lines = [answer.stock_why]
    else:
        sides = ("on stock torch", answer.stock_why), ("on torch_ext", answer.ours_why)
        lines = [f"{side}: {why}" for side, why in sides if why]
    lines += [f"{what}: {stock} on stock torch, {ours} on torch_ext" for what, stock, ours in answer.differences]
    for line in lines:
        if line:
            console.print(f"{answer.question}: {line}", markup=False)
