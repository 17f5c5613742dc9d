# SPDX-License-Identifier: BSD-3-Clause
"""Compiles the extension on first import and keeps the result.

For each build the cache folder holds ``NAME.so``, the compiler's output in
``NAME.log``, ``NAME.lock``, and while it is being built ``NAME.build-*/``. NAME
says for which torch, Python ABI, sources, flags and compiler the build is. All
of it belongs to the user: what another could have changed is not loaded.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from . import config

# torch's load() counts the builds of a process and renames the module after the
# first, so a failed build could not be repeated: each build gets a process of its own.
_COMPILE = """
import json, sys
arguments = json.load(sys.stdin)
sys.path[:] = arguments.pop("sys_path")
from torch.utils.cpp_extension import load
load(**arguments)
"""


class Compiler(NamedTuple):
    path: str
    version: str


def cache_folder() -> Path:
    """Where builds are kept: see TORCH_EXT_CACHE and TORCH_EXTENSIONS_DIR."""
    if os.environ.get("TORCH_EXT_CACHE"):
        return Path(os.environ["TORCH_EXT_CACHE"]).absolute()
    if os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(os.environ["TORCH_EXTENSIONS_DIR"]).absolute() / "torch_ext"
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")).absolute() / "torch_ext"


def log_of(extension: Path) -> Path:
    """The compiler's output for a build in the cache."""
    return extension.with_suffix(".log")


def build(csrc: Path, verbose: bool) -> Path:
    """Returns the extension built from ``csrc`` for the running torch and Python.

    Compiles it if the cache has none. With ``verbose`` the compiler's output
    goes to stderr as it comes. Raises ImportError if that cannot be done.
    """
    # Links are followed once, so that what is checked is what is loaded.
    cache = cache_folder().resolve()
    abi = sysconfig.get_config_var("SOABI")
    name = f"torch{config.torch_version()}-{abi}-{config.source_digest(csrc)[:16]}"
    compiler = find_compiler()
    if compiler is None:
        # Only compiling needs one. An extension that any compiler built will do.
        for extension in sorted(cache.glob(f"{glob.escape(name)}-*.so")):
            return _trusted(extension)
        raise ImportError(_no_compiler())
    extension = cache / f"{name}-{hashlib.sha256(repr(compiler).encode()).hexdigest()[:8]}.so"
    if not extension.exists():
        try:
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_ours(cache)
            with _one_at_a_time(extension):
                if not extension.exists():
                    _compile(csrc, extension, compiler, verbose)
        except OSError as error:
            raise ImportError(
                f"torch_ext cannot build in {cache}: {error}. "
                "Set the environment variable TORCH_EXT_CACHE to a folder that can be written to."
            ) from error
    return _trusted(extension)


def _trusted(extension: Path) -> Path:
    """Returns ``extension``. Raises ImportError if another user could have put something else there."""
    _check_ours(extension.parent)
    _check_ours(extension)
    return extension


def _check_ours(path: Path) -> None:
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


def find_compiler() -> Compiler | None:
    """The compiler that torch will use; None if there is none."""
    path = shutil.which(os.environ.get("CXX", "c++"))
    if path is None:
        return None
    path = os.path.abspath(path)
    try:
        output = subprocess.run([path, "--version"], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ImportError(f"torch_ext has to be compiled, and the C++ compiler does not run: {error}") from error
    return Compiler(path, output.decode(errors="replace"))


def _no_compiler() -> str:
    sought = f"CXX={os.environ['CXX']}" if "CXX" in os.environ else "c++"
    return (
        f"torch_ext has to be compiled, and no C++ compiler was found: {sought} is not on PATH. "
        "It needs g++ or clang++ with C++20. Install one (apt-get install g++), or set CXX to yours, "
        "and import torch_ext again."
    )


@contextlib.contextmanager
def _one_at_a_time(extension: Path) -> Iterator[None]:
    """Holds the build's lock, which the system releases if the process dies."""
    from filelock import FileLock, Timeout

    lock = FileLock(extension.with_suffix(".lock"), mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say("torch_ext: another process is building it; waiting\n")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _compile(csrc: Path, extension: Path, compiler: Compiler, verbose: bool) -> None:
    """Compiles ``extension``, which appears when it is complete. The caller holds its lock."""
    path = config.path_with_ninja()
    if path is None:
        raise ImportError("torch_ext has to be compiled, and ninja was not found. Install it: pip install ninja")
    _remove_killed_builds(extension)
    folder = Path(tempfile.mkdtemp(prefix=f"{extension.stem}.build-", dir=extension.parent))
    _say(
        f"torch_ext: building for torch {config.torch_version()}, Python {platform.python_version()} ... "
        + ("\n" if verbose else "")
    )
    start = time.monotonic()
    succeeded = False
    try:
        compiled = _run_compiler(csrc, folder, compiler, path, log_of(extension), verbose)
        if compiled:
            config.check_cpp_library(folder / "_C.so")
            succeeded = True
            os.chmod(folder / "_C.so", 0o600)
            os.replace(folder / "_C.so", extension)
    finally:
        _say(f"{'done' if succeeded else 'failed'} after {time.monotonic() - start:.0f} s\n")
        shutil.rmtree(folder, ignore_errors=True)
    if not succeeded:
        raise ImportError(_compile_error(compiler, log_of(extension)))


def _remove_killed_builds(extension: Path) -> None:
    """Removes the folders of killed builds, torch's own lock included. The caller holds ours: no build is running."""
    for folder in extension.parent.glob(f"{glob.escape(extension.stem)}.build-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _run_compiler(csrc: Path, folder: Path, compiler: Compiler, path: str, log: Path, verbose: bool) -> bool:
    """Compiles into ``folder``, and all output goes to ``log``. Returns whether ``folder/_C.so`` is good."""
    sources = config.unity_sources(csrc, folder)
    for made in folder.iterdir():
        made.chmod(0o600)  # as everything that the compiler writes
    arguments = {
        "name": "_C",
        "sources": sources,
        "extra_cflags": config.compile_flags(),
        "extra_include_paths": [str(csrc)],
        "build_directory": str(folder),
        # torch opens the library, so that an undefined symbol fails here, and doesn't create its module.
        "is_python_module": False,
        "verbose": True,
        "sys_path": [os.path.abspath(entry) for entry in sys.path],
    }
    # The loader has to compile on an older Python too, to say that it is too old: no parentheses around items of with.
    with open(log, "wb", opener=_private) as file:  # noqa: SIM117
        with subprocess.Popen(
            [sys.executable, "-c", _COMPILE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,  # not the user's, whose files could hide those of the standard library
            env={**os.environ, "CXX": compiler.path, "PATH": path, "LC_ALL": "C.UTF-8"},
            umask=0o077,
        ) as process:
            assert process.stdin is not None  # pipes
            assert process.stdout is not None
            process.stdin.write(json.dumps(arguments).encode())
            process.stdin.close()
            for line in process.stdout:
                file.write(line)
                if verbose:
                    _say(line.decode(errors="replace"))
    return process.returncode == 0


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def _compile_error(compiler: Compiler, log: Path) -> str:
    return (
        f"torch_ext could not be compiled for torch {config.torch_version()} "
        f"with {compiler.path} ({compiler.version.splitlines()[0]}):\n\n"
        f"{first_errors(log.read_text(errors='replace'))}\n\n"
        f"The whole output is in {log}."
    )


def first_errors(output: str, limit: int = 10) -> str:
    """The lines of a compiler's output that say what is wrong, or its end if none does."""
    lines = output.splitlines()
    telling = re.compile(r"\berror: |undefined (reference|symbol)|No space left on device")
    errors = [line for line in lines if telling.search(line)]
    return "\n".join(errors[:limit] or lines[-limit:])


def _say(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(text)
        sys.stderr.flush()
