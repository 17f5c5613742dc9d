# SPDX-License-Identifier: BSD-3-Clause
"""The folder in which what is compiled on import is kept.

All of it belongs to the user: what another could have changed is not loaded.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path


def cache_folder() -> Path:
    """Where builds are kept: see TORCH_EXT_CACHE and TORCH_EXTENSIONS_DIR."""
    if os.environ.get("TORCH_EXT_CACHE"):
        return Path(os.environ["TORCH_EXT_CACHE"]).absolute()
    if os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(os.environ["TORCH_EXTENSIONS_DIR"]).absolute() / "torch_ext"
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]).absolute() / "torch_ext"
    home = Path(os.path.expanduser("~"))
    # A container may run as a user that has no home, or one that is not theirs to write to.
    if home.is_absolute() and _can_be_made(home / ".cache"):
        return home / ".cache" / "torch_ext"
    return Path(tempfile.gettempdir()).absolute() / f"torch_ext-{os.geteuid()}"


def _can_be_made(folder: Path) -> bool:
    """Whether ``folder`` can be written to, or made in the nearest folder above it that there is."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def make(folder: Path) -> None:
    """Creates ``folder`` for this user alone. Raises OSError, or ImportError if it is somebody else's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_ours(folder)


def trusted(extension: Path) -> Path:
    """Returns ``extension``. Raises ImportError if another user could have put something else there."""
    check_ours(extension.parent)
    check_ours(extension)
    return extension


def check_ours(path: Path) -> None:
    """Raises ImportError if another user than this one owns ``path``, or could write to it."""
    found = path.stat()
    if found.st_uid != os.geteuid():
        reason = f"belongs to user {found.st_uid}, and this is user {os.geteuid()}"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        reason = f"can be written by others (mode {stat.S_IMODE(found.st_mode):04o}; chmod go-w takes that back)"
    else:
        return
    raise ImportError(
        f"torch_ext loads only what nobody else can change, and {path} {reason}. "
        "Remove it, or set the environment variable TORCH_EXT_CACHE to a folder of your own."
    )


def is_ours(path: Path) -> bool:
    """Whether ``path`` is there, and nobody else could have written it."""
    try:
        check_ours(path)
    except (OSError, ImportError):
        return False
    return True


def lock_of(extension: Path) -> Path:
    """The file that is locked while ``extension`` is built."""
    return extension.with_suffix(".lock")


def log_of(extension: Path) -> Path:
    """The compiler's output for a build in the cache."""
    return extension.with_suffix(".log")


@contextlib.contextmanager
def locked(extension: Path, wait: bool = True) -> Iterator[bool]:
    """Holds the lock of a build, which the system releases if the process dies.

    Gives False without waiting if another process has it and ``wait`` is False, and calls nothing then.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(lock_of(extension), mode=0o600)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
