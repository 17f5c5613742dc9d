# SPDX-License-Identifier: BSD-3-Clause
"""A copy of the checkout with an environment of its own, for one release of torch on one release of Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from .interpreters import find_interpreter, install_interpreter

ROOT = Path(__file__).resolve().parents[1]
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", "_C.*.so", "_C.*.json", "_C.*.headers"
)


class StepFailed(Exception):
    """A step could not be done; the message says which, and where its output is."""


class Copy:
    """A copy, and the log of all that is run in it.

    Arguments:
        folder: where the copy and the log go.
        torch, python: the releases, such as "2.13.0" and "3.11".
    """

    def __init__(self, folder, torch, python):
        self.torch = torch
        self.python = python
        self.path = Path(folder).absolute() / f"torch{torch}-python{python}"
        self.log = self.path.with_suffix(f"{self.path.suffix}.log")

    def create(self):
        """Makes the copy anew; its environment comes with ``make``."""
        self.remove()
        self.path.mkdir(parents=True)
        self.log.write_text("")
        self.interpreter = find_interpreter(self.python) or install_interpreter(self.python, self.attempt)
        if self.interpreter is None:
            self.remove()
            raise StepFailed("no such interpreter")
        shutil.copytree(ROOT, self.path, ignore=NOT_COPIED, dirs_exist_ok=True)

    def remove(self):
        """Removes all but the log."""
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def environment_python(self):
        """The interpreter of the environment, once ``make`` has made that."""
        return str(self.path / ".venv" / "bin" / "python")

    def make(self, step, target):
        """Has make do ``target`` with this torch and this Python, in the environment."""
        arguments = (f"PYTHON={self.interpreter}", f"TORCH={self.torch}", "VENV=.venv")
        self.command(step, "make", target, *arguments)

    def command(self, step, *command, made=None):
        """Runs a command of ``step`` in the copy and returns its output, which the log gets too.

        It has to succeed, or to have written the file ``made``.
        """
        process = self.attempt(command)
        if process.returncode != 0 and not (made is not None and made.exists()):
            raise StepFailed(f"{step} failed, see {self.log}")
        return process.stdout

    def attempt(self, command):
        """Runs a command in the copy, whose log gets the output, and returns the completed process."""
        process = subprocess.run(command, cwd=self.path, capture_output=True, check=False, text=True)
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(command)}\n{process.stdout}{process.stderr}\n")
        return process
