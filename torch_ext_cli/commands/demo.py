# SPDX-License-Identifier: BSD-3-Clause
"""``torch-ext demo``."""

import typer

from ..demo.options import parse_options
from ..errors import refuse

# All options are the program's, --help included.
SETTINGS = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


def demo(context: typer.Context) -> None:
    """Train a spiking network on stock torch and on torch_ext, side by side."""
    options = parse_options(context.args, "torch-ext demo")
    try:
        from ..demo import spiking_digits
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("matplotlib", "numpy", "rich", "sklearn"):
            raise
        refuse("demo", f"it needs {error.name}, and that is not installed: pip install 'torch_ext[demo]'")
    raise typer.Exit(spiking_digits.compare(options))
