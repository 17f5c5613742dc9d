# SPDX-License-Identifier: BSD-3-Clause
"""What the extension is compiled from, with which flags, and for which releases."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import platform
import re
import shutil
import sys
import time
from pathlib import Path

#: Releases of torch that csrc/compat.h has an entry for, oldest first, no gaps.
SUPPORTED_TORCH = ("2.11", "2.12", "2.13", "2.14", "2.15")
MINIMUM_PYTHON = (3, 10)
#: csrc reads CPython's own structures, which change with each release.
NEWEST_PYTHON = (3, 15)

#: NDEBUG as in torch's own wheels: the inline functions of its headers depend on
#: it, and have to be the same in both.
COMPILE_FLAGS = [
    "-std=c++20",
    "-O2",
    "-g0",
    "-DNDEBUG",
    "-fvisibility=hidden",
    "-fvisibility-inlines-hidden",
    "-Wall",
    "-Wextra",
]

#: Where torch_ext is developed, warnings are errors: make sets TORCH_EXT_WERROR=1. Another compiler warns of more, and
#: has to build it for users all the same. The flag changes no code, so nothing is compiled anew because of it.
STRICT = "-Werror"


def is_strict() -> bool:
    """Whether that is asked for."""
    return os.environ.get("TORCH_EXT_WERROR", "") not in ("", "0")


#: The folder of the package in which a wheel has the sources, and the line by which a checkout is known.
SHIPPED = "_csrc"
PROJECT_LINE = 'name = "torch_ext"'

INSTALL_COMMAND = "pip install --no-build-isolation --no-deps --force-reinstall ."


def compile_flags() -> list[str]:
    """COMPILE_FLAGS, then those in the environment variable TORCH_EXT_CFLAGS (for a sanitizer, say)."""
    more = os.environ.get("TORCH_EXT_CFLAGS")
    if not more:
        return [*COMPILE_FLAGS]
    import shlex

    return COMPILE_FLAGS + shlex.split(more)


def extension_suffix() -> str:
    """How the names of extensions for this Python alone end, such as ".cpython-311-x86_64-linux-gnu.so".

    sysconfig's EXT_SUFFIX, without the thousand other settings that sysconfig reads for it.
    """
    return importlib.machinery.EXTENSION_SUFFIXES[0]


def abi() -> str:
    """What this Python calls its ABI, such as "cpython-311-x86_64-linux-gnu": sysconfig's SOABI."""
    return extension_suffix().split(".")[1]


def libc() -> str:
    """The C library of this system, such as "glibc 2.36"; "" if it doesn't say."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):
        return ""


def release_numbers(version: str) -> list[int]:
    """The numbers at the end of ``version``, such as [2, 36], which compare as releases do."""
    return [int(part) for part in version.rpartition(" ")[2].split(".") if part.isdigit()]


def system_headers() -> list[str]:
    """The flags for torch's and Python's headers, as system headers: a warning in one of them is no error."""
    import sysconfig

    import torch  # and not its cpp_extension, which looks for CUDA, and says so if it finds none

    include = Path(torch.__file__).absolute().parent / "include"
    folders = (include, include / "torch" / "csrc" / "api" / "include", sysconfig.get_path("include"))
    return [f"-isystem{folder}" for folder in folders]


def compile_command(csrc: Path) -> list[str]:
    """The flags that a file of ``csrc`` is compiled with."""
    return [
        *compile_flags(),
        "-fPIC",
        "-DTORCH_API_INCLUDE_EXTENSION_H",
        "-DTORCH_EXTENSION_NAME=_C",
        f"-I{csrc}",
        *system_headers(),
    ]


def torch_requirement() -> str:
    """The requirement on torch as pip reads it."""
    major, minor = SUPPORTED_TORCH[-1].split(".")
    return f"torch>={SUPPORTED_TORCH[0]},<{major}.{int(minor) + 1}"


def check_environment(torch: str | None = None) -> None:
    """Raises ImportError if this system, Python or torch is not supported.

    ``torch`` is its version; it is imported to ask for that otherwise.
    """
    if sys.platform != "linux":
        raise ImportError(f"torch_ext runs on Linux only, and this is {platform.system() or sys.platform}.")
    if not MINIMUM_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        oldest, newest = (".".join(map(str, release)) for release in (MINIMUM_PYTHON, NEWEST_PYTHON))
        raise ImportError(
            f"torch_ext supports Python {oldest} to {newest}, and this is {platform.python_version()}. "
            f"Create an environment with a supported one: python{newest} -m venv .venv"
        )
    check_torch(torch or torch_version())


def torch_version() -> str:
    """The installed torch's whole version, local part included. Raises ImportError if there is none."""
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(
            f"torch_ext needs PyTorch, and none is installed. Install it: pip install '{torch_requirement()}'"
        ) from error
    return str(torch.__version__)


def release_of(version: str) -> str | None:
    """The release that ``version`` of torch belongs to, such as "2.13"; None if it names none."""
    release = re.match(r"\d+\.\d+", version)
    return release and release.group()


def check_torch(version: str) -> None:
    """Raises ImportError if ``version`` of torch is not supported."""
    if release_of(version) not in SUPPORTED_TORCH:
        raise ImportError(
            f"torch_ext supports torch {', '.join(SUPPORTED_TORCH)}, and torch {version} is installed. "
            f"Install a supported one: pip install '{torch_requirement()}'"
        )


def find_csrc() -> Path | None:
    """The C++ sources: those of the checkout, or those that a wheel has brought; None if there are none."""
    package = Path(__file__).resolve().parents[1]
    if has_shipped_sources():
        return package / SHIPPED
    checkout = package.parent
    try:
        # A csrc beside the package may be anybody's: in site-packages, or in the folder of another project.
        ours = PROJECT_LINE in (checkout / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return checkout / "csrc" if ours and (checkout / "csrc").is_dir() else None


def has_shipped_sources() -> bool:
    """Whether the package has its sources inside, as installed from a wheel: nobody changes them there."""
    return (Path(__file__).resolve().parents[1] / SHIPPED).is_dir()


def unity_sources(csrc: Path, folder: Path) -> list[str]:
    """The files to compile: those in ``csrc`` itself, and one in ``folder`` for each of its folders.

    Such a file includes all .cpp files of its folder, since parsing torch's headers takes longer than compiling
    these. It is written only if its text changes, so that ninja compiles nothing again without need.
    """
    texts: dict[Path, str] = {}
    for path in sorted(csrc.rglob("*/*.cpp")):
        name = path.relative_to(csrc)
        unit = folder / f"{name.parts[0]}.cpp"
        texts[unit] = f"{texts.get(unit, '')}#include <{name.as_posix()}>\n"
    folder.mkdir(parents=True, exist_ok=True)
    for gone in set(folder.glob("*.cpp")) - texts.keys():
        gone.unlink()
    for unit, text in texts.items():
        if not unit.exists() or unit.read_text() != text:
            unit.write_text(text)
    return [*map(str, sorted(csrc.glob("*.cpp"))), *map(str, texts)]


def _source_names(csrc: Path) -> list[str]:
    """The names of all sources and headers in ``csrc``, always in the same order."""
    begin = len(os.path.join(csrc, ""))
    names = [
        os.path.join(folder, file)[begin:]
        for folder, _, files in os.walk(csrc)
        for file in files
        if file.endswith((".cpp", ".h"))
    ]
    return sorted(names, key=lambda name: name.split(os.sep))


def source_digest(csrc: Path) -> str:
    """A digest of all sources, headers and flags."""
    digest = hashlib.sha256("\0".join(compile_flags()).encode())
    for name in _source_names(csrc):
        content = (csrc / name).read_bytes()
        digest.update(f"\0{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


#: A file system's clock ticks: two writes within one tick get the same times. The coarsest tick is FAT's, 2 seconds.
_TICK_NS = 2_000_000_000


def source_state(csrc: Path) -> str | None:
    """What the system says of the sources, without reading them: as long as it is the same, so is the digest.

    Anything that a program writes into a file, or puts in its place, changes the file's ctime or its inode, which no
    program can set: a file of the same size and mtime is seen too. None if a source has changed within the last
    two seconds, since another write then might not change its times. What is not seen: a write through a
    mapping of the file that was there before (the times change once, as its first page does), and a system clock that
    was set back to the very nanosecond.
    """
    digest = hashlib.sha256("\0".join([str(csrc), *compile_flags()]).encode(errors="surrogateescape"))
    youngest = 0
    for name in _source_names(csrc):
        found = os.stat(f"{csrc}/{name}")
        youngest = max(youngest, found.st_ctime_ns)
        times = f"{found.st_mtime_ns}\0{found.st_ctime_ns}"
        digest.update(f"\0{name}\0{found.st_size}\0{found.st_ino}\0{times}".encode(errors="surrogateescape"))
    return digest.hexdigest() if youngest < time.time_ns() - _TICK_NS else None


def check_cpp_library(extension: Path) -> None:
    """Raises ImportError if ``extension`` doesn't use the C++ library that torch uses.

    A compiler may link a copy of its own into the extension. In a process with two copies, streams and locales get
    mixed up, and the first error message ends the process.
    """
    if b"libstdc++.so.6" not in extension.read_bytes():
        raise ImportError(
            "torch_ext has to use the C++ library of torch, libstdc++.so.6, and the compiler has linked another one, "
            f"or a copy of it, into {extension.name}. Set CXX to a compiler that links libstdc++ dynamically, such as "
            "CXX=/usr/bin/g++, and leave -static-libstdc++ and -stdlib=libc++ out of its flags."
        )


def path_with_ninja() -> str | None:
    """A PATH on which ninja is found; None if it is not installed.

    The ninja package puts its program beside the interpreter, which is on PATH
    only if the environment is activated.
    """
    path = os.environ.get("PATH", os.defpath)
    if shutil.which("ninja"):
        return path
    if importlib.util.find_spec("ninja") is None:
        return None
    from ninja import BIN_DIR

    return os.pathsep.join((path, BIN_DIR))
