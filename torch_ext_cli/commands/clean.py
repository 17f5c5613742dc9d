# SPDX-License-Identifier: BSD-3-Clause
"""``torch-ext clean``."""

from typing import Annotated, Any

import typer

from ..errors import refuse
from ..package import build_module

All = Annotated[bool, typer.Option("--all", help="Also what this torch_ext can use: the next import compiles again.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")]


def clean(everything: All = False, dry_run: DryRun = False) -> None:
    """Remove what importing torch_ext has compiled and no longer needs.

    That is all in the cache folder that was compiled from other sources, or
    with other flags, than this torch_ext would use, and what builds that were
    killed have left. What is being compiled now is never removed.

    Examples:
        torch-ext clean --dry-run

        torch-ext clean --all
    """
    try:
        cache, config = build_module("cache"), build_module("config")
        folder = cache.cache_folder()
        csrc = config.find_csrc()
        sources = config.source_digest(csrc) if csrc and not everything else None
        freed = sum(_clean(cache, entry, dry_run) for entry in cache.entries(folder) if not _is_used(entry, sources))
    except ImportError as error:
        refuse("clean", str(error))
    except OSError as error:
        refuse("clean", f"{error.filename or folder} can't be removed: {error.strerror}")
    typer.echo(f"{freed:,} bytes {'would be freed' if dry_run else 'freed'} in {folder}")


def _is_used(entry: Any, sources: str | None) -> bool:
    """Whether a torch_ext with these sources may load it, with any torch and any Python."""
    return sources is not None and entry.is_of(sources) and entry.is_complete()


def _clean(cache: Any, entry: Any, dry_run: bool) -> int:
    """Removes an entry, and returns how many bytes that frees."""
    if not dry_run and not cache.remove(entry):
        typer.echo(f"Kept, since it is being compiled: {entry.name}")
        return 0
    if entry.name.startswith("torch"):  # a build, and not what is remembered of headers
        typer.echo(f"{'Would remove' if dry_run else 'Removed'}: {entry.name}, {entry.size:,} bytes")
    return int(entry.size)
