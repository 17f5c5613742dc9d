# SPDX-License-Identifier: BSD-3-Clause
"""``torch-ext build``."""

from typing import Annotated

import typer

from ..errors import refuse
from ..package import build_module

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the compiler's output.")]
Force = Annotated[bool, typer.Option("--force", help="Compile again what is in the cache.")]


def build(verbose: Verbose = False, force: Force = False) -> None:
    """Compile the extension now, if the next import of torch_ext would.

    It is compiled for the torch that is installed, and kept in the cache.
    Nothing is done if there is one that fits.

    Examples:
        torch-ext build

        CXX=clang++ torch-ext build --verbose
    """
    try:
        typer.echo(_build(verbose, force))
    except ImportError as error:
        refuse("build", str(error))


def _build(verbose: bool, force: bool) -> str:
    compiler, config, loader, on_import, stamp = map(
        build_module, ("compiler", "config", "loader", "on_import", "stamp")
    )
    config.check_environment()
    torch = stamp.installed_torch()
    extension, unfit = loader.built_ahead(torch)
    if extension is not None:
        if force:
            raise ImportError(
                f"{extension} was built ahead of time, and an import takes that. To build it again, in a checkout of "
                f"torch_ext: {config.INSTALL_COMMAND}"
            )
        return f"There already, for torch {torch.version}: {extension}"
    csrc = config.find_csrc()
    if csrc is None:
        raise ImportError(f"{unfit or 'There is no extension for this Python.'} There are no sources to compile.")
    used = compiler.find_compiler()
    found = None if force else on_import.find(csrc, torch, used)
    if found is not None:
        return f"There already, for torch {torch.version}: {found}"
    if used is None:
        raise ImportError(compiler.no_compiler())
    return f"Compiled for torch {torch.version}: {on_import.compile_now(csrc, torch, used, verbose, again=force)}"
