# SPDX-License-Identifier: BSD-3-Clause
"""Compiles each file of csrc alone and writes nothing: python -m tools.syntax [FILE_OR_FOLDER ...]

A build compiles all files of a folder as one, and so hides what one of them forgets to include. Several are compiled
at a time, up to the first that fails.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from .compile_commands import compile_commands


def select(entries, paths):
    """Those of ``entries`` whose file is one of ``paths`` or lies in one; all if there are no paths."""
    wanted = [Path(path).resolve() for path in paths]
    return [each for each in entries if not wanted or any(Path(each["file"]).is_relative_to(path) for path in wanted)]


def check(entry):
    """The finished run of the compiler on the file of ``entry``, one of compile_commands.json."""
    color = ["-fdiagnostics-color=always"] if sys.stdout.isatty() else []
    command = [*entry["arguments"], "-fsyntax-only", *color]
    return subprocess.run(
        command, cwd=entry["directory"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True
    )


def show_progress(text):
    """Replaces what it showed before by ``text``, on a terminal."""
    if sys.stdout.isatty():
        print(f"\r\033[K{text}", end="", flush=True)


def main(paths):
    """Checks the files in ``paths`` and returns the exit status."""
    entries = select(compile_commands(), paths)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        checks = {pool.submit(check, entry): entry for entry in entries}
        for number, each in enumerate(as_completed(checks), 1):
            if each.result().returncode != 0:
                break
            show_progress(f"{number}/{len(entries)} {os.path.relpath(checks[each]['file'])}")
        pool.shutdown(cancel_futures=True)  # what is running ends first
    show_progress("")
    failed = [each.result() for each in checks if not each.cancelled() and each.result().returncode != 0]
    for done in failed:
        print(done.stdout, end="")
    if not failed:
        print(f"{len(entries)} files compile alone")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
