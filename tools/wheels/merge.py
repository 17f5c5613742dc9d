# SPDX-License-Identifier: BSD-3-Clause
"""Puts several extensions into one wheel."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from email.parser import Parser
from pathlib import Path

from .build import copy_with_stamp

# How many hexadecimal digits of the digest of torch's headers tell the extensions of one wheel apart.
DIGITS = 12


def merge(package, extensions, tag, folder):
    """Writes a wheel of ``package``, a wheel without an extension, and the extensions, and returns its path.

    Arguments:
        package: the wheel, from ``wheel_of_sources``.
        extensions: paths, each with its stamp beside it. Of two that were compiled with the same headers, the first
            is taken.
        tag: what the wheel is for, such as "cp311-cp311-linux_x86_64".
        folder: where the wheel goes.
    """
    with tempfile.TemporaryDirectory() as temporary:
        run("unpack", "--dest", temporary, str(package))
        (root,) = Path(temporary).iterdir()
        for extension in extensions:
            add(root / "torch_ext", extension)
        (info,) = root.glob("*.dist-info/WHEEL")
        fields = Parser().parsestr(info.read_text())
        del fields["Tag"]
        fields["Tag"] = tag
        fields.replace_header("Root-Is-Purelib", "false")
        info.write_text(str(fields))
        Path(folder).mkdir(parents=True, exist_ok=True)
        run("pack", "--dest-dir", str(folder), str(root))
    name, version, *_ = Path(package).name.split("-")
    return Path(folder) / f"{name}-{version}-{tag}.whl"


def add(folder, extension):
    """Copies an extension into the package, under a name of its own, unless one with the same headers is there."""
    stamp = json.loads(extension.with_suffix(".json").read_text())
    name = f"_C.{stamp['headers'][:DIGITS]}.{stamp['python']}.so"
    if not (folder / name).exists():
        copy_with_stamp(extension, folder / name)


def run(*arguments):
    subprocess.run([sys.executable, "-m", "wheel", *arguments], check=True, stdout=subprocess.DEVNULL)
