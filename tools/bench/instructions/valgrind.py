# SPDX-License-Identifier: BSD-3-Clause
"""Finds valgrind, and what a process needs to talk to it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from torch_ext._build.compiler import find_compiler

SOURCE = Path(__file__).with_name("requests.cpp")


class Unavailable(Exception):
    """Instructions can't be counted here; the text says why."""


def find_valgrind():
    """Return valgrind's path, having installed it if it is missing and that is allowed.

    Raises:
        Unavailable: it is missing, and can't be installed.
    """
    path = shutil.which("valgrind") or (install() and shutil.which("valgrind"))
    if not path:
        raise Unavailable("instructions are counted by valgrind, which is not installed: apt-get install valgrind")
    return path


def install():
    """Install valgrind by apt-get; return whether that went well. Only root may."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    print("installing valgrind ...", file=sys.stderr)
    commands = ["apt-get", "update", "-qq"], ["apt-get", "install", "-yqq", "valgrind"]
    return all(subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0 for command in commands)


def compile_requests(folder):
    """Compile requests.cpp into ``folder``, and return the library's path.

    Raises:
        Unavailable: there is no C++ compiler, or it fails.
    """
    compiler = find_compiler()
    if compiler is None:
        raise Unavailable("counting instructions takes a C++ compiler, such as g++ or clang++")
    library = Path(folder, "requests.so")
    headers = Path(torch.__path__[0], "utils", "benchmark", "utils", "valgrind_wrapper")
    command = [*shlex.split(compiler.command), "-shared", "-fPIC", f"-I{headers}", str(SOURCE), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.returncode:
        raise Unavailable(f"{SOURCE.name} does not compile:\n{done.stderr}")
    return library
