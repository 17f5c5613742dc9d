# SPDX-License-Identifier: BSD-3-Clause
"""``torch-ext run``."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ..errors import refuse
from ..running import launch
from ..running.options import Anomaly, Options, Strict

_EXAMPLES = """
Examples:

    torch-ext run train.py --epochs 3
    torch-ext run --report --html report.html -m my_package.train
    torchrun --nproc-per-node 2 --no-python torch-ext run train.py
"""

# What an option that may stand alone means then.
_ALONE = {"--anomaly": "--anomaly=nan", "--strict": "--strict=warn"}


class RunCommand(TyperCommand):
    """A command whose options end where those of Python begin: at a script, at -m, -c or -."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts "--" before what is Python's, as click's own way to end the options."""
        with_value = {name for each in self.params if not getattr(each, "is_flag", True) for name in each.opts}
        end = 0
        while end < len(args) and args[end].startswith("--") and args[end] != "--":
            end += 2 if args[end] in with_value and args[end] not in _ALONE else 1
        own = [_ALONE.get(each, each) for each in args[:end]]
        return super().parse_args(ctx, [*own, "--", *args[end + (args[end : end + 1] == ["--"]) :]])


def run(
    program: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROGRAM [ARGS]",
            help="What you would type after python: a script, -m MODULE, -c CODE, -, a folder or a zip file.",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="At the end, print a table of the Functions that ran, on stderr.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="At the end, write the report as a page with plots.")
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="At the end, write the report as JSON.")] = None,
    anomaly: Annotated[
        Anomaly | None,
        typer.Option(
            metavar="[=WAY]",
            help="Nodes note where they were made, and NaN in backward is an error. Ways: nan, which is what --anomaly "
            "alone means; forward: in forward too; deferred: looked for at the end of backward; notes: no error.",
        ),
    ] = None,
    strict: Annotated[
        Strict | None,
        typer.Option(
            metavar="[=error]",
            help="Warn of mistakes in custom Functions. With =error the exit status is 1 if there is one.",
        ),
    ] = None,
    compare: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Run the first N calls of each Function on stock torch too. The exit status is 1 if one differs.",
            show_default=False,
        ),
    ] = 0,
    no_children: Annotated[
        bool,
        typer.Option("--no-children", help="Leave the Python processes that the program starts on stock torch."),
    ] = False,
) -> None:
    """Run an unchanged program on torch_ext, as python would run it."""
    if not program:
        refuse("run", "say what to run, as after python: a script, -m MODULE, -c CODE or -", 2)
    options = Options(report, _file(html), _file(json), anomaly or "", strict or "", compare)
    try:
        launch.launch(program, options, children=not no_children)
    except launch.CannotRun as problem:
        refuse("run", str(problem), 2)


def _file(path: Path | None) -> str:
    """A file to write at the end, by a path that holds if the program changes its folder."""
    if path is None:
        return ""
    if not path.absolute().parent.is_dir():
        refuse("run", f"there is no folder {path.parent} to write {path.name} into", 2)
    return str(path.absolute())


run.__doc__ = f"{run.__doc__}\n{_EXAMPLES}"
