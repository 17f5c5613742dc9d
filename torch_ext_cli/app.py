# SPDX-License-Identifier: BSD-3-Clause
"""The command line: ``torch-ext COMMAND ...``."""

import typer

from .commands import bench, build, check, clean, demo, disable, doctor, enable, run

app = typer.Typer(
    name="torch-ext",
    help="Runs unchanged PyTorch programs on torch_ext, and compares, measures and mends what it finds.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    # A traceback of ours is a defect, and typer's shows the values of all variables.
    pretty_exceptions_enable=False,
)


@app.callback()
def _options() -> None:
    pass  # makes commands of the functions, also while there is one only


app.command()(bench.bench)
app.command()(build.build)
app.command()(check.check)
app.command()(clean.clean)
app.command(context_settings=demo.SETTINGS)(demo.demo)
app.command()(disable.disable)
app.command()(doctor.doctor)
app.command()(enable.enable)
app.command(cls=run.RunCommand)(run.run)
