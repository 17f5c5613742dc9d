# SPDX-License-Identifier: BSD-3-Clause
"""Compiles the extension on first import and keeps the result.

For each build the cache folder holds ``NAME.so`` with its stamp (``NAME.json``,
``NAME.headers``), the compiler's output in ``NAME.log``, ``NAME.lock``, and while
it is being built ``NAME.build-*/``. NAME says for which torch, Python ABI,
sources, flags and compiler the build is.
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
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from . import cache, config, stamp
from .compiler import Compiler, as_one_word, find_compiler, no_compiler, write_stamp

# torch's load() counts the builds of a process and renames the module after the
# first, so a failed build could not be repeated: each build gets a process of its own.
_COMPILE = """
import json, sys
arguments = json.load(sys.stdin)
sys.path[:] = arguments.pop("sys_path")
from torch.utils.cpp_extension import load
load(**arguments)
"""


# In the environment of that process: what Python runs as it starts may import torch_ext there too, and would wait for
# the lock that this process holds.
_COMPILING = "TORCH_EXT_COMPILING"


def build(csrc: Path, torch: stamp.Torch, verbose: bool) -> Path:
    """Returns the extension built from ``csrc`` for ``torch`` and the running Python.

    Compiles it if the cache has none. With ``verbose`` the compiler's output
    goes to stderr as it comes. Raises ImportError if that cannot be done.
    """
    compiler = find_compiler()
    extension = find(csrc, torch, compiler)
    if extension is not None:
        return extension
    if compiler is None:
        raise ImportError(no_compiler())
    return compile_now(csrc, torch, compiler, verbose)


def find(csrc: Path, torch: stamp.Torch, compiler: Compiler | None) -> Path | None:
    """The build in the cache that fits, if there is one.

    Only compiling needs a compiler: without one, an extension that any compiler built will do.
    """
    # Links are followed once, so that what is checked is what is loaded.
    folder = cache.cache_folder().resolve()
    extensions = sorted(folder.glob(f"*-{config.abi()}-*.so"))
    stamps = (stamp.read_stamp(extension) for extension in extensions if cache.is_ours(stamp.stamp_path(extension)))
    sources = stamp.source_digest(csrc, stamps)
    for extension in extensions:
        if f"-{sources[:16]}-" not in extension.name:
            continue
        cache.trusted(extension)
        said = stamp.read_stamp(extension)
        fits = compiler is None or said.get("compiler") == compiler._asdict()
        # What was compiled with a newer C library, on a machine that shares the cache, can't be loaded.
        fits = fits and config.release_numbers(said.get("libc", "")) <= config.release_numbers(config.libc())
        if fits and stamp.misfit(extension, torch) is None:
            return extension
    return None


def compile_now(csrc: Path, torch: stamp.Torch, compiler: Compiler, verbose: bool, again: bool = False) -> Path:
    """Compiles into the cache, unless another process just did, or with ``again`` also then. Returns the extension.

    Raises ImportError if that cannot be done.
    """
    if _COMPILING in os.environ:
        raise ImportError("torch_ext is imported by the process that compiles it, as something does in each Python")
    folder = cache.cache_folder().resolve()
    extension = folder / f"{name_of(csrc, torch, compiler)}.so"
    before = _file_of(extension)
    try:
        cache.make(folder)
        with _one_at_a_time(extension):
            # What another process has made while this one waited will do. No clock is asked: a server has its own.
            there = extension.exists() and (not again or _file_of(extension) != before)
            if not there or stamp.misfit(extension, torch) is not None:
                _compile(csrc, extension, torch, compiler, verbose)
    except OSError as error:
        raise ImportError(
            f"torch_ext cannot build in {folder}: {error}. "
            "Set the environment variable TORCH_EXT_CACHE to a folder that can be written to."
        ) from error
    return cache.trusted(extension)


def _file_of(extension: Path) -> tuple[int, int] | None:
    """Changes if another file takes the place of ``extension``."""
    try:
        found = extension.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def name_of(csrc: Path, torch: stamp.Torch, compiler: Compiler) -> str:
    """What a build in the cache is called: torch, Python, sources with flags, and the rest of what it depends on."""
    rest = hashlib.sha256(f"{compiler!r}{config.libc()}{torch.identity()}".encode()).hexdigest()[:8]
    abi = config.abi()
    return f"torch{torch.version}-{abi}-{config.source_digest(csrc)[:16]}-{rest}"


@contextlib.contextmanager
def _one_at_a_time(extension: Path) -> Iterator[None]:
    """Holds the build's lock, and says so if it has to wait for it."""
    with cache.locked(extension, wait=False) as at_once:
        if at_once:
            yield
            return
    _say("torch_ext: another process is building it; waiting\n")
    with cache.locked(extension):
        yield


def _compile(csrc: Path, extension: Path, torch: stamp.Torch, compiler: Compiler, verbose: bool) -> None:
    """Compiles ``extension``, which appears when it is complete. The caller holds its lock."""
    path = config.path_with_ninja()
    if path is None:
        raise ImportError("torch_ext has to be compiled, and ninja was not found. Install it: pip install ninja")
    _remove_killed_builds(extension)
    replaced = _file_of(extension)
    folder = cache.build_folder(extension)
    _say(f"torch_ext: building for torch {torch.version}, Python {platform.python_version()} ... " + "\n" * verbose)
    start = time.monotonic()
    succeeded = False
    try:
        if _run_compiler(csrc, folder, compiler, path, cache.log_of(extension), verbose):
            _check_and_keep(csrc, folder / "_C.so", extension, torch, compiler, replaced)
            succeeded = True
    finally:
        _say(f"{'done' if succeeded else 'failed'} after {time.monotonic() - start:.0f} s\n")
        shutil.rmtree(folder, ignore_errors=True)
    if not succeeded:
        raise ImportError(_compile_error(torch, compiler, cache.log_of(extension)))


def _check_and_keep(
    csrc: Path,
    made: Path,
    extension: Path,
    torch: stamp.Torch,
    compiler: Compiler,
    replaced: tuple[int, int] | None,
) -> None:
    """Moves what was compiled to its place. Raises ImportError if it could not be loaded."""
    config.check_cpp_library(made)
    write_stamp(made, csrc, torch, compiler)
    wrong = stamp.misfit(made, torch)
    if wrong is not None:
        raise ImportError(f"{wrong} Set CXX to a compiler, and TORCH_EXT_CFLAGS to flags, that do as torch's did.")
    # The extension last: what says for what it was built is there when it appears.
    for place in (stamp.headers_path, stamp.stamp_path):
        os.chmod(place(made), 0o600)
        os.replace(place(made), place(extension))
    os.chmod(made, 0o600)
    _put(made, extension, replaced)


def _put(made: Path, extension: Path, replaced: tuple[int, int] | None) -> None:
    """Puts the extension in its place, in that of the file ``replaced`` if there was one.

    Another machine may have been quicker. Then its extension stays: NFS takes from under a process what another machine
    replaces.
    """
    if _file_of(extension) == replaced is not None:
        os.replace(made, extension)
        return
    try:
        os.link(made, extension)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        os.replace(made, extension)


def _remove_killed_builds(extension: Path) -> None:
    """Removes the folders of killed builds, torch's own lock included. The caller holds ours: no build runs here."""
    for folder in extension.parent.glob(f"{glob.escape(extension.stem)}.build-*"):
        with contextlib.suppress(OSError):  # another machine does the same
            if cache.is_left_over(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _run_compiler(csrc: Path, folder: Path, compiler: Compiler, path: str, log: Path, verbose: bool) -> bool:
    """Compiles into ``folder``, and all output goes to ``log``. Returns whether ``folder/_C.so`` is good."""
    sources = config.unity_sources(csrc, folder)
    for made in folder.iterdir():
        made.chmod(0o600)  # as everything that the compiler writes
    cxx = as_one_word(compiler.command, folder)
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
            env={**os.environ, "CXX": cxx, "PATH": path, "LC_ALL": "C.UTF-8", "TORCH_EXT": "0", _COMPILING: "1"},
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


def _compile_error(torch: stamp.Torch, compiler: Compiler, log: Path) -> str:
    return (
        f"torch_ext could not be compiled for torch {torch.version} "
        f"with {compiler.command} ({compiler.title}):\n\n"
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
