# SPDX-License-Identifier: BSD-3-Clause
"""Collects what is installed."""

import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from ..package import build_module
from ..startup import pth

Facts = dict[str, Any]

_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from torch_ext_cli.doctor.probe import main
main(sys.argv[2])
"""
_VARIABLES = ("CXX", "CONDA_PREFIX", "PYTHONPATH", "TORCH_EXTENSIONS_DIR", "XDG_CACHE_HOME")


def examine() -> Facts:
    """All facts, by section. Takes as long as importing torch."""
    package = package_facts()
    facts: Facts = {
        "python": {
            "version": platform.python_version(),
            "executable": sys.executable,
            "abi": sysconfig.get_config_var("SOABI"),
            "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}".rstrip(", "),
        },
        "torch_ext": package,
        "torch": torch_facts(),
        "compiler": compiler_facts() if package["folder"] else {},
        "cache": cache_facts() if package["folder"] else {},
        "enable": enable_facts(),
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith("TORCH_EXT") or name in _VARIABLES
        },
    }
    facts["extension"] = probe_facts(facts)
    return facts


# torch_ext


def package_facts() -> Facts:
    """Where torch_ext is, and whether what is installed is another one."""
    found = _find("torch_ext", sys.path)
    facts: Facts = {
        "folder": str(found) if found else None,
        "version": None,
        "kind": None,
        "sources": None,
        "installed": _installed(),
        "here": None,
    }
    here = _find("torch_ext", [os.getcwd()])
    if here is not None and here != found:
        facts["here"] = str(here)
    try:
        csrc = build_module("config").find_csrc()
    except ImportError:
        facts["folder"] = None
        return facts
    facts["sources"] = str(csrc) if csrc else None
    facts["version"] = _version_in(found) if found else None
    facts["kind"] = _kind(facts)
    return facts


def _find(name: str, path: list[str]) -> Path | None:
    """The folder, or the file, of the package ``name`` on ``path``."""
    spec = importlib.machinery.PathFinder.find_spec(name, path)
    if spec is None and path is sys.path:
        spec = importlib.util.find_spec(name)  # that of an editable installation
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin).resolve()
    return origin.parent if origin.name == "__init__.py" else origin


def _version_in(folder: Path) -> str | None:
    """The version that the package states, without importing it."""
    for line in (folder / "__init__.py").read_text(encoding="utf-8").splitlines():
        if line.startswith("__version__ = "):
            return line.partition(" = ")[2].strip("\"'")
    return None


def _installed() -> Facts | None:
    """What pip knows as torch_ext; None if nothing."""
    try:
        distribution = importlib.metadata.distribution("torch_ext")
    except importlib.metadata.PackageNotFoundError:
        return None
    source = json.loads(distribution.read_text("direct_url.json") or "{}")
    editable = bool(source.get("dir_info", {}).get("editable"))
    root = source["url"].removeprefix("file://") if editable else str(distribution.locate_file(""))
    folder = Path(root, "torch_ext").resolve()
    return {"version": distribution.version, "editable": editable, "folder": str(folder)}


def _kind(facts: Facts) -> str:
    """How the torch_ext that is found came here."""
    installed = facts["installed"]
    if installed and installed["folder"] == facts["folder"]:
        return "editable" if installed["editable"] else "wheel"
    return "checkout" if facts["sources"] else "folder"


# torch


def torch_facts() -> Facts:
    """Where there is a torch; the first is the one that is imported."""
    places: list[str] = []
    for entry in sys.path:
        found = _find("torch", [entry])
        if found is not None and str(found) not in places:
            places.append(str(found))
    return {"folder": places[0] if places else None, "others": places[1:]}


def probe_facts(facts: Facts) -> Facts:
    """What importing torch and loading the extension comes to, up to what fails."""
    if facts["torch"]["folder"] is None or facts["torch_ext"]["folder"] is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "found")
        output.touch()
        command = [
            sys.executable,
            "-c",
            _CHILD,
            json.dumps([os.path.abspath(entry) for entry in sys.path]),
            str(output),
        ]
        done = subprocess.run(command, capture_output=True, check=False, text=True, errors="replace")
        lines = [json.loads(line) for line in output.read_text().splitlines()]
    found: Facts = next(iter(lines[-1].values())) if lines else {}
    facts["torch"] |= {name: found.pop(name) for name in ("version", "git", "cuda", "gpus") if name in found}
    if done.returncode != 0:
        step = ("torch", "gpu", "extension", "load")[len(lines)]
        found["failed"] = {"step": step, "error": _why(done)}
    return found


def _why(done: "subprocess.CompletedProcess[str]") -> str:
    """Why a process has ended, in a line."""
    if done.returncode < 0:
        return f"the process was ended by {signal.Signals(-done.returncode).name}"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"the process ended with status {done.returncode}"


# What compiling needs


def compiler_facts() -> Facts:
    """The compiler and ninja."""
    facts: Facts = {"command": None, "title": None, "error": None}
    try:
        compiler = build_module("compiler")
        found = compiler.find_compiler()
        if found is None:
            facts["error"] = compiler.no_compiler()
        else:
            facts |= {"command": found.command, "title": found.title}
    except ImportError as error:
        facts["error"] = str(error)
    facts["ninja"] = build_module("config").path_with_ninja() is not None
    return facts


def cache_facts() -> Facts:
    """The folder of builds."""
    cache = build_module("cache")
    folder = cache.cache_folder()
    facts: Facts = {"folder": str(folder), "error": None, "writable": True, "builds": [], "unfinished": []}
    try:
        if folder.exists():
            cache.check_ours(folder.resolve())
        there = next(path for path in (folder, *folder.parents) if path.exists())
        facts["writable"] = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
        for entry in cache.entries(folder):
            if entry.is_complete():
                cache.check_ours(entry.extension.resolve())
                facts["builds"].append({"name": entry.name, "bytes": entry.size})
            elif any(path.is_dir() for path in entry.paths):
                facts["unfinished"].append(entry.name)
    except ImportError as error:
        facts["error"] = str(error)
    except OSError as error:
        facts |= {"writable": False}
        facts["error"] = f"{folder} can't be read: {error}"
    return facts


# torch-ext enable


def enable_facts() -> Facts:
    """The file that ``torch-ext enable`` writes, and what a Python that starts with it says."""
    path = pth.find()
    if path is None:
        return {"file": None, "says": None}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"TORCH_EXT": "1"}
    command = [sys.executable, "-c", "pass"]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, check=False, text=True)
    return {"file": str(path), "says": done.stderr.strip() or None}
