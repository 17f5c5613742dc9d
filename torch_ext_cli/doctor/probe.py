# SPDX-License-Identifier: BSD-3-Clause
"""Imports torch and loads the extension, in a process of its own, which may crash.

It writes what it has found out as lines of JSON, each before it goes on to what may end it.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..package import build_module

Facts = dict[str, Any]


def main(output: str) -> None:
    """Runs all steps up to the first that fails, and appends to the file ``output``."""
    found: Facts = {}
    for step in (torch_facts, gpu_facts, extension_facts, load):
        found = {**found, **step(found)}
        with open(output, "a") as file:
            file.write(json.dumps({step.__name__: found}) + "\n")


def torch_facts(_: Facts) -> Facts:
    """Which torch is imported."""
    import torch

    return {
        "version": str(torch.__version__),
        "git": str(getattr(torch.version, "git_version", None)),
        "folder": str(Path(torch.__file__).absolute().parent),
        "cxx11_abi": str(int(torch.compiled_with_cxx11_abi())),
        "cuda": torch.version.cuda,
    }


def gpu_facts(_: Facts) -> Facts:
    """Which GPUs torch sees."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {"gpus": [torch.cuda.get_device_name(number) for number in range(count)]}


def extension_facts(found: Facts) -> Facts:
    """Which extensions there are for this torch, and which of them an import would take."""
    config, loader, on_import, stamp = map(build_module, ("config", "loader", "on_import", "stamp"))
    torch = stamp.Torch(found["version"], found["git"], Path(found["folder"]), found["cxx11_abi"])
    csrc = config.find_csrc()
    sources = csrc and config.source_digest(csrc)
    beside = [_describe(path, torch, csrc and sources, stamp) for path in loader.candidates(torch)]
    chosen, _ = loader.built_ahead(torch)
    compiler = _quietly(build_module("compiler").find_compiler)
    cached = chosen is None and csrc and _quietly(lambda: on_import.find(csrc, torch, compiler))
    extension = chosen or cached
    return {
        "has_headers": torch.include.is_dir(),
        "beside": beside,
        "cached": bool(cached),
        "extension": str(extension) if extension else None,
        "stamp": stamp.read_stamp(extension) if extension else {},
        "unlinked": _quietly(lambda: config.check_cpp_library(extension), str) if extension else None,
    }


def _describe(path: Path, torch: Any, sources: str | None, stamp: Any) -> Facts:
    """An extension beside the package, and why it isn't for ``torch`` or for the sources there."""
    misfit = stamp.misfit(path, torch)
    shipped = build_module("config").has_shipped_sources()
    if misfit is None and sources and not shipped and stamp.read_stamp(path).get("sources") != sources:
        misfit = f"The sources are newer than {path}."
    return {"path": str(path), "torch": stamp.read_stamp(path).get("torch"), "misfit": misfit}


def _quietly(call: Callable[[], Any], otherwise: Callable[[ImportError], Any] = lambda error: None) -> Any:
    try:
        return call()
    except ImportError as error:
        return otherwise(error)


def load(found: Facts) -> Facts:
    """Loads the extension that an import would take, if there is one."""
    if not found["extension"]:
        return {"loaded": False}
    build_module("loader").load_from(Path(found["extension"]))
    return {"loaded": True}


if __name__ == "__main__":
    main(sys.argv[1])
