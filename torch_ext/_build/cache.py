# SPDX-License-Identifier: BSD-3-Clause
"""The folder in which what is compiled on import is kept.

All of it belongs to the user: what another could have changed is not loaded.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


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

    Gives False without waiting if another process has it and ``wait`` is False.
    """
    file = _acquire(lock_of(extension), wait)
    try:
        yield file is not None
    finally:
        if file is not None:
            os.close(file)


def _acquire(path: Path, wait: bool) -> int | None:
    """A descriptor that has ``path`` locked; None if another has it locked and ``wait`` is False."""
    import fcntl  # what isn't Linux has to be told so first

    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(file)
            return None
        except BaseException:
            os.close(file)
            raise
        # Whoever held it may have removed the file meanwhile, and then others lock the next of that name.
        if os.fstat(file).st_nlink > 0:
            return file
        os.close(file)


# What is in it


class Entry(NamedTuple):
    """What belongs to one build, or is remembered, in the cache.

    Attributes:
        name: of the build.
        paths: its files, and the folders of builds that are running or were killed.
        size: in bytes.
    """

    name: str
    paths: list[Path]
    size: int

    @property
    def extension(self) -> Path:
        """Where the extension is, or would be."""
        return self.paths[0].with_name(f"{self.name}.so")

    def is_complete(self) -> bool:
        """Whether it can be loaded."""
        return self.extension in self.paths

    def is_of(self, sources: str) -> bool:
        """Whether it is a build of these ``sources``, a digest."""
        return f"-{sources[:16]}-" in self.name


#: How the files and folders are called that torch_ext makes, after the name of the build.
_MADE = (
    r"(?P<name>torch.+-[0-9a-f]{8})\.(so|json|headers|log|lock|build-\w+)"
    r"|(?P<known>[0-9a-f]{32}-[0-9a-f]{32}\.(fits|\d+))"
)


def entries(folder: Path) -> list[Entry]:
    """All that torch_ext has made in ``folder``, by name. Files of others are left out."""
    made: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = re.fullmatch(_MADE, path.name)
        if match is not None:
            made.setdefault(match["name"] or match["known"], []).append(path)
    return [Entry(name, paths, sum(map(_size, paths))) for name, paths in made.items()]


def _size(path: Path) -> int:
    """In bytes; of a folder, what is in it."""
    parts = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    size = 0
    for part in parts:
        with contextlib.suppress(OSError):  # a build that is running removes files
            size += part.lstat().st_size
    return size


def remove(entry: Entry) -> bool:
    """Removes all of ``entry``, unless it is being built now; returns whether it did."""
    with locked(entry.extension, wait=False) as ours:
        if not ours:
            return False
        for path in [*entry.paths, lock_of(entry.extension)]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    return True
