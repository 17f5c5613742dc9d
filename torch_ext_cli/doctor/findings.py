# SPDX-License-Identifier: BSD-3-Clause
"""What is wrong, and what to do about it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..package import build_module

Facts = dict[str, Any]


class Finding(NamedTuple):
    """Something that is wrong, or only worth knowing.

    Attributes:
        name: what programs know it by.
        wrong: whether it has to be mended.
        what: a sentence.
        remedy: what to do, as a sentence or a command.
    """

    name: str
    wrong: bool
    what: str
    remedy: str


def findings(facts: Facts) -> list[Finding]:
    """All findings, what is wrong first."""
    found = [*package(facts), *torch(facts)]
    if not any(each.name in ("package-missing", "torch-missing", "torch-broken", "unsupported") for each in found):
        found += [*compiling(facts), *extension(facts)]
    found += [*cache(facts), *enable(facts)]
    return sorted(found, key=lambda each: not each.wrong)


def package(facts: Facts) -> Iterator[Finding]:
    """Whether the torch_ext that is found is the one that is installed."""
    found = facts["torch_ext"]
    if found["folder"] is None:
        yield Finding(
            "package-missing", True, "No torch_ext is found that has its parts.", "Install it: pip install torch_ext"
        )
        return
    if found["here"]:
        yield Finding(
            "hidden",
            True,
            f"{found['here']} hides the torch_ext in {found['folder']} from programs that are started in this folder.",
            "Start them in another folder, or rename that one.",
        )
    installed = found["installed"]
    if installed and installed["folder"] != found["folder"]:
        asked = any(_is_in(found["folder"], entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep))
        yield Finding(
            "hidden",
            not asked,
            f"{found['folder']} hides the installed torch_ext {installed['version']} in {installed['folder']}.",
            "Take its folder out of PYTHONPATH, if that isn't wanted."
            if asked
            else "Start Python in another folder, or install this one: pip install -e .",
        )


def _is_in(folder: str, entry: str) -> bool:
    return bool(entry) and Path(folder).parent == Path(entry).resolve()


def torch(facts: Facts) -> Iterator[Finding]:
    """Whether there is a torch that can be used."""
    config = build_module("config") if facts["torch_ext"]["folder"] else None
    requirement = config.torch_requirement() if config else "torch"
    found = facts["torch"]
    if found["others"]:
        yield Finding(
            "torch-twice",
            True,
            f"torch is installed more than once: {found['folder']} is used, and not {', '.join(found['others'])}.",
            "Keep one: pip uninstall torch, as often as it finds one; then install it again.",
        )
    if found["folder"] is None:
        yield Finding(
            "torch-missing",
            True,
            "torch_ext needs PyTorch, and none is installed.",
            f"Install it: pip install '{requirement}'",
        )
        return
    failed = facts["extension"].get("failed", {})
    if failed.get("step") in ("torch", "gpu"):
        fails = "import torch fails" if failed["step"] == "torch" else "torch fails as it looks for GPUs"
        yield Finding(
            "torch-broken",
            True,
            f"{fails}, without torch_ext: {failed['error']}",
            f"Install it again: pip install --force-reinstall '{requirement}'",
        )
    if config is not None and "version" in found:
        yield from _supported(config, found["version"])


def _supported(config: Any, version: str) -> Iterator[Finding]:
    try:
        config.check_environment(version)
    except ImportError as error:
        what, _, remedy = str(error).rpartition(". ")
        yield Finding("unsupported", True, f"{what or remedy}.", remedy if what else "Use it on Linux.")


def extension(facts: Facts) -> Iterator[Finding]:
    """Whether an import finds an extension, and can load it."""
    found = facts["extension"]
    failed = found.get("failed")
    chosen = found.get("extension")
    if failed:
        again = "torch-ext build --force" if found.get("cached") else build_module("config").INSTALL_COMMAND
        what = f"{chosen} cannot be loaded" if failed["step"] == "load" else "Looking for the extension failed"
        yield Finding("extension-broken", True, f"{what}: {failed['error']}", f"Build it again: {again}")
    if found.get("unlinked"):
        what, _, remedy = found["unlinked"].rpartition(". ")
        yield Finding("cpp-library", True, f"{what}.", f"{remedy} Then: torch-ext build --force")
    if chosen or failed:
        return
    misfits = [each["misfit"] for each in found.get("beside", []) if each["misfit"]]
    if misfits:
        yield Finding("extension-unfit", True, misfits[0], _to_build(facts))
    elif facts["torch_ext"]["sources"]:
        yield Finding(
            "extension-unbuilt", False, "No extension is built yet: the next import does it.", _to_build(facts)
        )
    else:
        what = "There is no extension for this Python, and there are no sources to compile one from."
        yield Finding("extension-missing", True, what, _to_build(facts))


def _to_build(facts: Facts) -> str:
    if facts["torch_ext"]["sources"]:
        return "Compile it now, or let the next import do it: torch-ext build"
    return f"In a checkout of torch_ext: {build_module('config').INSTALL_COMMAND}"


def compiling(facts: Facts) -> Iterator[Finding]:
    """Whether one can compile, which is wrong only if one has to."""
    needed = not facts["extension"].get("extension")
    found = facts["compiler"]
    if found["error"]:
        what, _, remedy = found["error"].partition(". ")
        remedy = remedy or "Set CXX to a compiler that runs: g++ or clang++ with C++20."
        if not needed:
            what = f"Not needed now: {what.removeprefix('torch_ext has to be compiled, and ')}"
        yield Finding("compiler", needed, f"{what}.", remedy)
    if not found["ninja"]:
        yield Finding("ninja", needed, "Compiling needs ninja, which was not found.", "Install it: pip install ninja")
    if not facts["extension"].get("has_headers", True):
        what = f"The torch in {facts['torch']['folder']} has no headers, which compiling needs."
        yield Finding("headers", needed, what, "Install torch from a wheel, or the package that has its headers.")


def cache(facts: Facts) -> Iterator[Finding]:
    """Whether the folder of builds can be used, which is wrong only if it has to be."""
    found = facts["cache"]
    if not found:
        return
    needed = not facts["extension"].get("extension")
    if found["error"]:
        what, _, remedy = found["error"].partition(". ")
        yield Finding("cache", True, f"{what.rstrip('.')}.", remedy or "Set TORCH_EXT_CACHE to a folder of your own.")
    elif not found["writable"]:
        remedy = "Set the environment variable TORCH_EXT_CACHE to a folder that can be written to."
        yield Finding("cache", needed, f"{found['folder']}, where builds are kept, can't be written to.", remedy)
    if found["unfinished"]:
        what = f"Builds are running, or were killed: {', '.join(found['unfinished'])}."
        yield Finding("unfinished", False, what, "Remove what was killed: torch-ext clean")


def enable(facts: Facts) -> Iterator[Finding]:
    """Whether programs start well with what ``torch-ext enable`` has written."""
    found = facts["enable"]
    if found["says"]:
        # After an error in a .pth file Python says besides that it goes on.
        lines = [
            line.strip() for line in found["says"].splitlines() if line and not line.startswith("Remainder of file")
        ]
        what = f"Python started with {found['file']} and TORCH_EXT=1 says: {lines[-1]}"
        yield Finding("enable", True, what, f"Remove it: torch-ext disable, or rm {found['file']}")


def is_well(found: list[Finding]) -> bool:
    """Whether nothing is wrong."""
    return not any(each.wrong for each in found)
