# SPDX-License-Identifier: BSD-3-Clause
"""The folder in which what is compiled on import is kept.

All of it belongs to the user: what another could have changed is not loaded.

Several machines may share the folder, on a file system whose locks the others see, see some time later or never see, or
that has none. So locks only save work. What is right doesn't rest on them: each build has a folder of its own, and its
extension appears at once, where there is none yet.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
import time
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
    return _temporary_folder()


def _temporary_folder() -> Path:
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


def build_folder(extension: Path) -> Path:
    """A new folder to build ``extension`` in. Its name has the machine's, whose locks its processes see."""
    return Path(tempfile.mkdtemp(prefix=f"{extension.stem}.build-{machine()}_", dir=extension.parent))


def is_left_over(folder: Path) -> bool:
    """Whether the build in ``folder`` is over, if its lock is free.

    One of this machine is. One of another may be running under a lock that isn't seen here: it is over if it is older
    than a day, by the clock of the file system, which has stamped both.
    """
    if f".build-{machine()}_" in folder.name:
        return True
    with tempfile.TemporaryFile(dir=folder.parent) as now:
        return os.fstat(now.fileno()).st_mtime - folder.stat().st_mtime > _DAY_S


_DAY_S = 24 * 3600


@functools.cache
def machine() -> str:
    """Names this machine, from its start on: containers on it, which see each other's locks, have the same name."""
    try:
        identity = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        identity = platform.node()
    return hashlib.sha256(identity.encode()).hexdigest()[:8]


def log_of(extension: Path) -> Path:
    """The compiler's output for a build in the cache."""
    return extension.with_suffix(".log")


#: How long somebody else's lock is waited for. A build takes a minute or two; one that a machine has left behind as it
#: went down may stay for ever.
PATIENCE_S = 600

#: What file systems answer that have no locks, or whose server has none to give.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextlib.contextmanager
def locked(extension: Path, wait: bool = True) -> Iterator[bool]:
    """Holds the lock of a build, which the system releases if the process dies.

    Gives False without waiting if another process has it and ``wait`` is False. If there is no lock to be had in the
    cache, or none within ``PATIENCE_S``, the one that is held is in the folder for temporary files, and keeps apart
    the processes of this machine.
    """
    try:
        file = _acquire(lock_of(extension), PATIENCE_S if wait else 0)
        if file is None and wait:
            file = _acquire(_local_lock_of(extension))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        file = _acquire(_local_lock_of(extension), None if wait else 0)
    try:
        yield file is not None
    finally:
        if file is not None:
            os.close(file)


def _local_lock_of(extension: Path) -> Path:
    folder = _temporary_folder()
    make(folder)
    return folder / lock_of(extension).name


def _acquire(path: Path, patience: float | None = None) -> int | None:
    """A descriptor that has ``path`` locked; None if another has it locked after ``patience`` seconds."""
    import fcntl  # what isn't Linux has to be told so first

    end = None if patience is None else time.monotonic() + patience
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if end is None else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(file)
            if end is not None and time.monotonic() >= end:
                return None
            time.sleep(_LOOK_AGAIN_S)
            continue
        except BaseException:
            os.close(file)
            raise
        # Whoever held it may have removed the file meanwhile, and then others lock the next of that name.
        if os.fstat(file).st_nlink > 0:
            return file
        os.close(file)


_LOOK_AGAIN_S = 0.1


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
        if any(_is_folder(path) and not is_left_over(path) for path in entry.paths):
            return False
        for path in [*entry.paths, lock_of(entry.extension)]:
            if _is_folder(path):
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    return True


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
