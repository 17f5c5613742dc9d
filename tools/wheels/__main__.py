# SPDX-License-Identifier: BSD-3-Clause
"""The command line: python -m tools.wheels."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..copies import ROOT, StepFailed
from .build import extension_for, wheel_of_sources
from .merge import DIGITS, merge
from .repair import reason, repair

DESCRIPTION = """\
Make a wheel for each release of Python that holds the extension for several releases of torch, so that no compiler is
needed where it is installed. torch_ext loads the one that was compiled with the headers of the installed torch.

Each extension is compiled in a copy of the checkout with an environment of its own, which is removed afterwards.
pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL ...) say where packages come from. A torch with CUDA libraries
takes several gigabytes while its extension is compiled; one for CPU has the same headers.
"""
#: This release of Python; with a "t" it has no GIL.
HERE = ".".join(platform.python_version_tuple()[:2]) + "t" * bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
EXAMPLE = "example: python -m tools.wheels --python 3.11 --torch 2.11.0 2.12.1 2.13.0 2.14.1 2.15.0"


def parse_options(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m tools.wheels",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--python", nargs="+", default=[HERE], metavar="X.Y", help=f"default: {HERE}")
    parser.add_argument("--torch", nargs="+", required=True, metavar="X.Y.Z", help="at least one for each X.Y")
    parser.add_argument("--output", default=str(ROOT / "dist"), metavar="FOLDER", help="for wheels (default: dist)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many to compile at a time (default: 1)")
    parser.add_argument("--folder", help="where the copies and logs go (default: a new temporary folder)")
    parser.add_argument("--keep", action="store_true", help="leave the copies with their environments there")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse_options(arguments)
    folder = options.folder or tempfile.mkdtemp(prefix="torch_ext-wheels-")
    Path(folder).mkdir(parents=True, exist_ok=True)
    console = Console()
    try:
        package = wheel_of_sources(folder)
        for python in options.python:
            console.print(f"Python {python}: compiling for torch {', '.join(options.torch)} in {folder} ...")
            with ThreadPoolExecutor(options.jobs) as pool:
                tasks = [pool.submit(extension_for, folder, torch, python, options.keep) for torch in options.torch]
                extensions = [task.result() for task in tasks]
            merged = merge(package, extensions, tag_of(python), folder)
            report(console, extensions, repair(merged, options.output))
    except StepFailed as failure:
        console.print(str(failure), markup=False)
        return 1
    return 0


def tag_of(python):
    """What a wheel for this release of Python and this machine is for, before it is known for which systems."""
    version = python.removesuffix("t")
    short = "cp" + "".join(version.split(".")[:2])
    return f"{short}-{short}{python.removeprefix(version)}-linux_{platform.machine()}"


def report(console, extensions, wheel):
    table = Table(title=f"{wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB")
    for heading in ("compiled for torch", "digest of its headers", "compiler"):
        table.add_column(heading, overflow="fold")
    for extension in extensions:
        stamp = json.loads(extension.with_suffix(".json").read_text())
        table.add_row(stamp["torch"], stamp["headers"][:DIGITS], stamp["compiler"]["version"].splitlines()[0])
    console.print(table)
    needs = ", ".join(f"{library} {version}" for library, version in sorted(reason(wheel).items()))
    console.print(f"{wheel}\nIts tag is no older since it needs {needs}.", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
