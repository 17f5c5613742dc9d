# SPDX-License-Identifier: BSD-3-Clause
"""The file that makes each Python of an environment look at TORCH_EXT as it starts."""

import os
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

NAME = "torch_ext.pth"

# Python runs it in each process, in a virtual environment twice. Most don't ask for torch_ext, and it may be gone while
# the line is there still.
_STATEMENTS = """
try:
    from torch_ext_cli.startup import begin
except ImportError as error:
    if not hasattr(sys, "_torch_ext_is_missing"):
        sys._torch_ext_is_missing = True
        sys.stderr.write(f"torch_ext: TORCH_EXT is set, and torch_ext isn't installed: {error}\\n")
else:
    begin()
"""
LINE = f"import os, sys; os.environ.get('TORCH_EXT', '') in ('', '0') or exec({_STATEMENTS!r})\n"


def folder(user: bool) -> Path:
    """Where the file is to be: the environment's site-packages, or the user's."""
    return Path(site.getusersitepackages() if user else sysconfig.get_path("purelib"))


def has_user_folder() -> bool:
    """Whether this Python looks at packages of the user's own."""
    return bool(site.ENABLE_USER_SITE)


def find() -> Path | None:
    """The file that is there: the environment's, or the user's; None if there is none."""
    folders = [folder(False), *([folder(True)] if has_user_folder() else [])]
    return next((each / NAME for each in folders if (each / NAME).is_file()), None)


def works() -> bool:
    """Whether a Python that starts with TORCH_EXT=1 finds torch_ext through the file."""
    code = "import sys; sys.exit('torch_ext_cli.startup' not in sys.modules)"
    environment = {**os.environ, "TORCH_EXT": "1"}
    return not subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=False
    ).returncode


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
