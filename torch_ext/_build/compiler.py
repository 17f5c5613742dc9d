# SPDX-License-Identifier: BSD-3-Clause
"""The C++ compiler: which one, what it reads for the sources, and the stamp of what it has made of them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from . import config, stamp


class Compiler(NamedTuple):
    """A compiler that runs.

    Attributes:
        command: how it is called, as the environment variable CXX has it: a path, and perhaps arguments.
        version: what it says about itself.
    """

    command: str
    version: str

    @property
    def title(self) -> str:
        """The first line of what it says about itself."""
        return (self.version.splitlines() or [""])[0]


class Reading(NamedTuple):
    """What the compiler reads for the sources.

    Attributes:
        headers: those of torch, by their names in its folder ``include``, in order.
        macros: the values of what says how C++ objects lie in memory.
    """

    headers: list[str]
    macros: dict[str, str]


ABI_MACROS = ("_GLIBCXX_USE_CXX11_ABI", "__GXX_ABI_VERSION")


def find_compiler() -> Compiler | None:
    """The compiler that CXX names, else one on PATH, else one of this environment; None if there is none.

    Raises ImportError if it does not run.
    """
    words = _command()
    if words is None:
        return None
    try:
        output = subprocess.run([*words, "--version"], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ImportError(f"torch_ext has to be compiled, and the C++ compiler does not run: {error}") from error
    return Compiler(shlex.join(words), output.decode(errors="replace"))


def _command() -> list[str] | None:
    chosen = shlex.split(os.environ.get("CXX", ""))
    if chosen:
        path = shutil.which(chosen[0])
        return None if path is None else [os.path.abspath(path), *chosen[1:]]
    for name in ("c++", "g++", "clang++"):
        path = shutil.which(name)
        if path is not None:
            return [os.path.abspath(path)]
    # conda's compilers have the name of the platform in theirs, and PATH has them only in an activated environment.
    for prefix in (os.environ.get("CONDA_PREFIX"), sys.prefix):
        found = sorted(Path(prefix, "bin").glob("*-conda-linux-gnu-c++")) if prefix else []
        if found:
            return [str(found[0])]
    return None


def as_one_word(command: str, folder: Path) -> str:
    """What CXX may be for torch, which takes it for one word, spaces and all: a script in ``folder`` if it is more."""
    if shlex.split(command) == [command]:
        return command
    # ninja compiles again if the name changes. For torch it has to be one of a compiler.
    script = folder / f"c++-{hashlib.sha256(command.encode()).hexdigest()[:8]}"
    script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    script.chmod(0o700)
    return str(script)


def no_compiler() -> str:
    """What to say if there is none."""
    sought = f"CXX={os.environ['CXX']}" if os.environ.get("CXX") else "c++"
    return (
        f"torch_ext has to be compiled, and no C++ compiler was found: {sought} is not on PATH. "
        "It needs g++ or clang++ with C++20. Install one (apt-get install g++, or conda install gxx), "
        "or set CXX to yours, and import torch_ext again."
    )


def read(compiler: Compiler, csrc: Path, torch_include: Path) -> Reading:
    """Has the compiler read the sources, without compiling them. Takes about a second.

    Raises ImportError if it can't read them.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, rule = Path(folder, "all.cpp"), Path(folder, "all.d")
        names = sorted(path.relative_to(csrc).as_posix() for path in csrc.rglob("*.cpp"))
        source.write_text("".join(f"#include <{name}>\n" for name in names))
        # As system headers gcc would call them by the names that links lead to.
        flags = [flag.replace("-isystem", "-I", 1) for flag in config.compile_command(csrc)]
        command = [*shlex.split(compiler.command), *flags, "-E", "-dM", "-MD", "-MF", str(rule), str(source)]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode != 0:
            raise ImportError(
                f"the C++ compiler {compiler.command} cannot read the sources of torch_ext:\n"
                + done.stderr.decode(errors="replace")
            )
        files = _prerequisites(rule.read_text(errors="surrogateescape"))
    definitions = dict(re.findall(rb"^#define (\w+) (.*)$", done.stdout, re.MULTILINE))
    macros = {name: definitions[name.encode()].decode() for name in ABI_MACROS if name.encode() in definitions}
    prefix = f"{torch_include}{os.sep}"
    headers = {os.path.normpath(file)[len(prefix) :] for file in files if os.path.normpath(file).startswith(prefix)}
    return Reading(sorted(headers), macros)


def _prerequisites(rule: str) -> list[str]:
    """The files after the colon of a rule of make."""
    words = re.split(r"(?<!\\)\s+", rule.replace("\\\n", " ").strip())
    return [re.sub(r"\\(.)", r"\1", word).replace("$$", "$") for word in words[1:]]


def write_stamp(extension: Path, csrc: Path, torch: stamp.Torch, used: Compiler) -> None:
    """Writes beside ``extension`` what it was just compiled from and against."""
    reading = read(used, csrc, torch.include)
    state = config.source_state(csrc)
    content = {
        "torch": torch.version,
        "git": torch.git,
        "identity": torch.identity(),
        "headers": stamp.digest_of(reading.headers, torch.include),
        "macros": reading.macros,
        "python": config.abi(),
        "sources": config.source_digest(csrc),
        # Only if nothing has changed while they were read.
        "state": state if state == config.source_state(csrc) else None,
        "flags": config.compile_flags(),
        "compiler": used._asdict(),
        "libc": config.libc(),
    }
    stamp.headers_path(extension).write_text("".join(f"{name}\n" for name in reading.headers))
    stamp.stamp_path(extension).write_text(json.dumps(content, indent=1) + "\n")
