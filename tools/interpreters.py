# SPDX-License-Identifier: BSD-3-Clause
"""Finds a Python interpreter by its version."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def find_interpreter(version):
    """Return the path of a Python of ``version``, such as "3.11" or "3.11.7"; None if there is none.

    Looks at the running one, those on PATH, and pyenv's, and takes the newest.
    """
    found = {path: version_of(path) for path in candidates(".".join(version.split(".")[:2]))}
    wanted = numbers(version)
    fitting = [path for path, has in found.items() if has is not None and has[: len(wanted)] == wanted]
    return max(fitting, key=found.get, default=None)


def numbers(version):
    return tuple(int(part) for part in version.split("."))


def candidates(minor):
    """Paths where a Python of the release ``minor`` may be."""
    on_path = (shutil.which(name) for name in (f"python{minor}", "python3", "python"))
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    return [sys.executable, *filter(None, on_path), *map(str, sorted(pyenv.glob(f"versions/{minor}.*/bin/python")))]


def version_of(path):
    """The version that the interpreter at ``path`` states; None if it doesn't run."""
    code = "import sys; print(*sys.version_info[:3], sep='.')"
    try:
        process = subprocess.run([path, "-c", code], capture_output=True, check=False, text=True)
    except OSError:
        return None
    return numbers(process.stdout.strip()) if process.returncode == 0 else None
