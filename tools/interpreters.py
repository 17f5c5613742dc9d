# SPDX-License-Identifier: BSD-3-Clause
"""Finds a Python interpreter by its version, or has one of the tools that are there install it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class Version(NamedTuple):
    """A release of Python, as much of it as is asked for; ``free`` is one without a GIL."""

    numbers: tuple[int, ...]
    free: bool = False

    @classmethod
    def parse(cls, text):
        """From "3.14", "3.14.2" or "3.14t".

        Raises:
            ValueError: it is none of these.
        """
        if not re.fullmatch(r"\d+\.\d+(\.\d+)?t?", text):
            raise ValueError(f"a release of Python is written 3.14, 3.14.2 or, without a GIL, 3.14t: not {text}")
        return cls(tuple(map(int, text.rstrip("t").split("."))), text.endswith("t"))

    @property
    def minor(self):
        """As it stands in names of files: "3.14t"."""
        return ".".join(map(str, self.numbers[:2])) + "t" * self.free


def find_interpreter(version):
    """Return the path of a Python of ``version``, such as "3.11", "3.11.7" or "3.14t"; None if there is none.

    Looks at the running one, those on PATH, pyenv's and uv's, and takes the newest.
    """
    wanted = Version.parse(version)
    found = {path: version_of(path) for path in candidates(wanted)}
    fitting = [
        path
        for path, has in found.items()
        if has is not None and has.free == wanted.free and has.numbers[: len(wanted.numbers)] == wanted.numbers
    ]
    return max(fitting, key=lambda path: found[path].numbers, default=None)


def candidates(version):
    """Paths where a Python of that release may be."""
    minor = version.minor.rstrip("t")
    on_path = (shutil.which(name) for name in (f"python{version.minor}", "python3", "python"))
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT") or home / ".pyenv")
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or home / ".local" / "share" / "uv" / "python")
    installed = [*pyenv.glob(f"versions/{minor}.*/bin/python"), *uv.glob(f"cpython-{minor}.*/bin/python3")]
    return [sys.executable, *filter(None, on_path), *map(str, sorted(installed))]


def version_of(path):
    """The Version that the interpreter at ``path`` states; None if it doesn't run."""
    code = (
        "import sys, sysconfig;"
        " print(*sys.version_info[:3], sep='.', end='t' * bool(sysconfig.get_config_var('Py_GIL_DISABLED')))"
    )
    try:
        process = subprocess.run([path, "-c", code], capture_output=True, check=False, text=True)
        return Version.parse(process.stdout.strip()) if process.returncode == 0 else None
    except (OSError, ValueError):
        return None


def install_interpreter(version, run=subprocess.run):
    """Have uv or pyenv install a Python of ``version``; return its path, None if neither is there or can do it.

    Args:
        version: as for :func:`find_interpreter`.
        run: what runs a command, a list, that may fail.
    """
    for tool, *arguments in (["uv", "python", "install"], ["pyenv", "install", "--skip-existing"]):
        if shutil.which(tool):
            run([tool, *arguments, version])
            if path := find_interpreter(version):
                return path
    return None
