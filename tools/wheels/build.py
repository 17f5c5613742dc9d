# SPDX-License-Identifier: BSD-3-Clause
"""What a wheel is made of: the package with its sources, and an extension for each release of torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ..copies import NOT_COPIED, ROOT, Copy, StepFailed

# torch is not to be found, as in an environment that pip isolates.
WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None
sys.argv = ["setup.py", "--quiet", "bdist_wheel", "--dist-dir", sys.argv[1]]
runpy.run_path("setup.py")
"""


def wheel_of_sources(folder, root=ROOT):
    """Builds the package of the checkout ``root``, with its sources and no extension. Returns the wheel."""
    dist = Path(folder).absolute() / "sources"
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(root, Path(copy, "checkout"), ignore=NOT_COPIED)
        command = [sys.executable, "-c", WITHOUT_TORCH, str(dist)]
        done = subprocess.run(command, cwd=Path(copy, "checkout"), capture_output=True, check=False, text=True)
    if done.returncode != 0:
        raise StepFailed(f"building the package failed:\n{done.stdout}{done.stderr}")
    (wheel,) = dist.glob("*.whl")
    return wheel


def extension_for(folder, torch, python, keep=False):
    """Compiles the extension for a release of torch on a release of Python, in an environment made for it.

    Returns its path, beside which its stamp lies. ``keep`` leaves the environment there.
    """
    copy = Copy(folder, torch, python)
    try:
        copy.create()
        copy.make("environment", f".venv/.torch-{torch}")
        copy.command("build", copy.environment_python, "setup.py", "--quiet", "build_ext", "--inplace")
        (built,) = (copy.path / "torch_ext").glob("_C.*.so")
        kept = copy.path.with_name(f"{copy.path.name}-extension")
        kept.mkdir(exist_ok=True)
        copy_with_stamp(built, kept / built.name)
        return kept / built.name
    finally:
        if not keep:
            copy.remove()


def copy_with_stamp(extension, place):
    """Copies an extension, and what says for what it was built."""
    for suffix in (".so", ".json", ".headers"):
        shutil.copy(extension.with_suffix(suffix), place.with_suffix(suffix))
