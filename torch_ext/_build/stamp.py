# SPDX-License-Identifier: BSD-3-Clause
"""What an extension was compiled against, and whether that is what is installed.

Beside an extension ``NAME.so`` lie ``NAME.json``, its stamp, and ``NAME.headers``, the names of torch's headers that
the compiler read for it. An extension fits a torch if these headers are the same there, whatever the torch is called.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from . import cache, config

#: A release that corrects another has the same headers but for the lines that say so.
_PATCH_RELEASE = rb"#define TORCH_VERSION_PATCH .*|#define TORCH_VERSION \\\n.*"
_STATES_RELEASE = "torch/headeronly/version.h"


class Torch(NamedTuple):
    """An installed torch.

    Attributes:
        version: the whole version, local part included.
        git: the revision of torch's sources.
        folder: where it is.
        cxx11_abi: the value of _GLIBCXX_USE_CXX11_ABI that it was compiled with.
    """

    version: str
    git: str
    folder: Path
    cxx11_abi: str

    @property
    def include(self) -> Path:
        """The folder of its headers."""
        return self.folder / "include"

    def identity(self) -> str:
        """Changes if another torch is installed, also in the same place. Looks at a few files only."""
        digest = hashlib.sha256(f"{self.folder}\0{self.version}\0{self.git}".encode(errors="surrogateescape"))
        for name in ("version.py", "lib/libtorch_python.so", f"include/{_STATES_RELEASE}"):
            try:
                found = os.stat(self.folder / name)
            except OSError:
                continue
            digest.update(f"\0{name}\0{found.st_mtime_ns}\0{found.st_size}".encode())
        return digest.hexdigest()


def installed_torch() -> Torch:
    """The torch that this process imports. Raises ImportError if there is none."""
    version = config.torch_version()
    import torch

    git = str(getattr(torch.version, "git_version", None))
    return Torch(version, git, Path(torch.__file__).absolute().parent, str(int(torch.compiled_with_cxx11_abi())))


# What is kept beside an extension


def stamp_path(extension: Path) -> Path:
    """The file that says what ``extension`` was built for."""
    return extension.with_suffix(".json")


def headers_path(extension: Path) -> Path:
    """The file with the names of torch's headers that ``extension`` was compiled with, one a line."""
    return extension.with_suffix(".headers")


def read_stamp(extension: Path) -> dict[str, Any]:
    """What :func:`compiler.write_stamp` wrote; empty if there is nothing that can be read."""
    try:
        stamp = json.loads(stamp_path(extension).read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def source_digest(csrc: Path, stamps: Iterable[dict[str, Any]]) -> str:
    """What :func:`config.source_digest` gives. Reads no source if one of ``stamps`` is of these, unchanged since."""
    state = config.source_state(csrc)
    known = (stamp.get("sources") for stamp in stamps if state is not None and stamp.get("state") == state)
    return next(known, None) or config.source_digest(csrc)


def is_of(extension: Path, csrc: Path) -> bool:
    """Whether ``extension`` was built from the sources in ``csrc`` as they are now."""
    stamp = read_stamp(extension)
    return source_digest(csrc, [stamp]) == stamp.get("sources")


# Whether it fits


def misfit(extension: Path, torch: Torch) -> str | None:
    """Why ``extension`` must not be loaded into ``torch``, as a sentence; None if it fits."""
    stamp = read_stamp(extension)
    if not is_whole(extension):
        return f"{extension} is damaged: the file ends too early."
    abi = config.abi()
    if stamp.get("python", abi) != abi:
        return f"torch_ext was built for Python {stamp['python']}, and this is {abi} ({extension})."
    cxx11_abi = stamp.get("macros", {}).get("_GLIBCXX_USE_CXX11_ABI", torch.cxx11_abi)
    if cxx11_abi != torch.cxx11_abi:
        return (
            f"torch_ext was built with _GLIBCXX_USE_CXX11_ABI={cxx11_abi}, and torch {torch.version} "
            f"with {torch.cxx11_abi} ({extension})."
        )
    if _same_headers(extension, stamp, torch):
        return None
    built_for = stamp.get("torch", "of an unknown version")
    if built_for == torch.version:
        return f"torch_ext was built for another torch {built_for} than the one in {torch.folder} ({extension})."
    return f"torch_ext was built for torch {built_for}, and torch {torch.version} is installed ({extension})."


def _same_headers(extension: Path, stamp: dict[str, Any], torch: Torch) -> bool:
    """Whether torch's headers are those that ``extension`` was compiled with."""
    expected = stamp.get("headers")
    if not isinstance(expected, str):
        return False
    identity = torch.identity()
    if stamp.get("identity") == identity:
        return True  # compiled against this very torch
    if not torch.include.is_dir():
        return (stamp.get("torch"), stamp.get("git")) == (torch.version, torch.git)
    known = cache.cache_folder() / f"{identity[:32]}-{expected[:32]}.fits"
    answer = _recall(known)
    if answer is None:
        answer = _digest_beside(extension, torch) == expected
        _remember(known, answer)
    return answer


def _digest_beside(extension: Path, torch: Torch) -> str | None:
    try:
        return digest_of(headers_path(extension).read_text().splitlines(), torch.include)
    except OSError:
        return None


def digest_of(headers: list[str], include: Path) -> str:
    """A digest of the names and contents of ``headers``, files of ``include``; one that is missing counts too."""
    digest = hashlib.sha256()
    for name in headers:
        try:
            with open(f"{include}/{name}", "rb", buffering=0) as file:
                content = file.read()
        except FileNotFoundError:
            content = b"\0missing"
        if name == _STATES_RELEASE:
            content = re.sub(_PATCH_RELEASE, b"", content)
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _recall(known: Path) -> bool | None:
    """What an earlier process found out: reading thousands of headers takes longer than the rest of the import."""
    if not cache.is_ours(known.parent) or not cache.is_ours(known):
        return None
    try:
        return {"yes": True, "no": False}.get(known.read_text().strip())
    except OSError:
        return None


def _remember(known: Path, answer: bool) -> None:
    """Notes ``answer`` for later processes, if it can."""
    part = known.with_suffix(f".{os.getpid()}")
    try:
        cache.make(known.parent)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w") as file:
            file.write("yes\n" if answer else "no\n")
        os.replace(part, known)
    except (OSError, ImportError):
        return


def is_whole(extension: Path) -> bool:
    """Whether the file is as long as its header says: the system would end a process that maps a shorter one."""
    with open(extension, "rb") as file:
        header = file.read(64)
        size = os.fstat(file.fileno()).st_size
    if len(header) < 64 or header[:4] != b"\x7fELF":
        return False
    if header[4:6] != b"\x02\x01":  # not of 64 bits, or the other byte order: the next step will tell
        return True
    (table,) = struct.unpack_from("<Q", header, 40)
    entry, count = struct.unpack_from("<HH", header, 58)
    return bool(size >= table + entry * count)
