# SPDX-License-Identifier: BSD-3-Clause
"""Checks the code without running it: python -m tools.lint [PART ...]

Runs all parts, or those that are named, and prints a line for each with its result and how long it took. What a part
has found follows its line.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .compile_commands import ROOT, command, load_config

CSRC = ROOT / "csrc"


def run(*arguments):
    """What a program wrote, and its exit status."""
    done = subprocess.run(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True)
    return done.stdout, done.returncode


def module(name, *arguments):
    """A part that runs a Python module."""
    return lambda: run(sys.executable, "-m", name, *arguments)


def script(name):
    """The path of a program in this environment, which need not be activated."""
    return os.path.join(sysconfig.get_path("scripts"), name)


def clang_format():
    sources = [
        str(path)
        for top in (CSRC, ROOT / "tools", ROOT / "tests")
        for path in top.rglob("*")
        if path.suffix in (".cpp", ".h")
    ]
    return run(script("clang-format"), "--dry-run", "--Werror", f"--style=file:{ROOT / '.clang-format'}", *sources)


def clang_tidy():
    """Checks the files that a build compiles, one for each folder: all sources alone would take many times longer."""
    flags = command(CSRC)[1:]
    check = [script("clang-tidy"), "--quiet", f"--config-file={ROOT / '.clang-tidy'}"]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        sources = load_config().unity_sources(CSRC, Path(folder))
        done = list(pool.map(lambda source: run(*check, source, "--", *flags), sources))
    return "".join(output for output, status in done if status != 0), max(status for _, status in done)


PARTS = {
    "ruff": module("ruff", "check", "--quiet"),
    "ruff-format": module("ruff", "format", "--diff", "--quiet"),
    "mypy": module("mypy", "--no-error-summary"),
    "stubtest": module("mypy.stubtest", "--mypy-config-file", "pyproject.toml", "--concise", "torch_ext._C"),
    "clang-format": clang_format,
    "clang-tidy": clang_tidy,
    "syntax": module("tools.syntax"),
}


def main(names):
    """Runs the parts with these names, all if there are none, and returns the exit status."""
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        print(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    failed = False
    for name in names or PARTS:
        print(f"{name:<14}", end="", flush=True)
        start = time.monotonic()
        output, status = PARTS[name]()
        print(f"{'failed' if status else 'ok':<8}{time.monotonic() - start:4.0f} s")
        if status:
            failed = True
            print(output.rstrip())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
