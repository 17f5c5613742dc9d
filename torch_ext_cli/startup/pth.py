# SPDX-License-Identifier: BSD-3-Clause
"""The file that makes each Python of an environment look at TORCH_EXT as it starts."""

import os
import site
import sysconfig
from pathlib import Path

NAME = "torch_ext.pth"

# Python runs it in each process. Most don't ask for torch_ext, and it may be gone while the line is there still.
_STATEMENTS = """
try:
    from torch_ext_cli.startup import begin
except ImportError as error:
    __import__("sys").stderr.write(f"torch_ext: TORCH_EXT is set, and torch_ext isn't installed: {error}\\n")
else:
    begin()
"""
LINE = f"import os; os.environ.get('TORCH_EXT', '0') == '0' or exec({_STATEMENTS!r})\n"


def folder(user: bool) -> Path:
    """Where the file is to be: the environment's site-packages, or the user's."""
    return Path(site.getusersitepackages() if user else sysconfig.get_path("purelib"))


def find() -> Path | None:
    """The file that is there: the environment's, or the user's; None if there is none."""
    folders = [folder(False), *([folder(True)] if site.ENABLE_USER_SITE else [])]
    return next((each / NAME for each in folders if (each / NAME).is_file()), None)


def write(user: bool) -> tuple[Path, bool]:
    """Writes the file, and returns it and whether that has changed anything.

    Raises:
        OSError: it can't be written.
    """
    path = folder(user) / NAME
    if path.is_file() and path.read_text(encoding="utf-8") == LINE:
        return path, False
    path.parent.mkdir(parents=True, exist_ok=True)
    # In one step: a Python that starts now finds all of it or nothing.
    new = path.with_name(f"{NAME}.{os.getpid()}")
    try:
        new.write_text(LINE, encoding="utf-8")
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    return path, True


def remove(user: bool) -> tuple[Path, bool]:
    """Removes the file, and returns where it is and whether it was there.

    Raises:
        OSError: it can't be removed.
    """
    path = folder(user) / NAME
    there = path.is_file()
    path.unlink(missing_ok=True)
    return path, there
