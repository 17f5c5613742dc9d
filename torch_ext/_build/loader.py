# SPDX-License-Identifier: BSD-3-Clause
"""Finds the compiled extension, or has it compiled, and loads it as ``torch_ext._C``."""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import os
import sys
import sysconfig
import threading
from pathlib import Path
from types import ModuleType

from . import config, on_import

_PACKAGE = __package__.partition(".")[0]
_PACKAGE_FOLDER = Path(__file__).parents[1]
_NAME = f"{_PACKAGE}._C"

_lock = threading.Lock()


def load(verbose: bool = False) -> ModuleType:
    """Loads the extension and returns its module; importing ``torch_ext`` does this by itself.

    Takes the extension that an installation built, if there is one. In a
    checkout without one, or with one older than ``csrc/``, it is compiled for
    the installed torch and kept for the next time.

    Args:
        verbose: shows the compiler's whole output on stderr, also if the
            extension is already compiled. The environment variable
            ``TORCH_EXT_VERBOSE=1`` does the same for an import.

    Raises:
        ImportError: the system, Python or torch is not supported, the extension
            was built for another torch, or it cannot be compiled. The message
            says what was found, what is needed and what to run.
    """
    with _lock:
        module = sys.modules.get(_NAME)
        if module is None:
            _check_interpreter()
            config.check_environment()
            path = _find(verbose or os.environ.get("TORCH_EXT_VERBOSE") == "1")
            module = _load_from(path)
        elif verbose:
            _show_log(Path(inspect.getfile(module)))
        return module


def _check_interpreter() -> None:
    """Raises ImportError in a sub-interpreter, before torch is imported, which would crash there."""
    current, main = (getattr(ctypes.pythonapi, f"PyInterpreterState_{name}") for name in ("Get", "Main"))
    current.restype = main.restype = ctypes.c_void_p
    if current() != main():
        raise ImportError("torch_ext, like torch, works in the main interpreter only, and this is another one.")


def _find(verbose: bool) -> Path:
    """The extension to load: the one built ahead of time, or one compiled now."""
    csrc = config.find_csrc()
    extension = _built_ahead()
    if extension is not None:
        _check_target(extension)
        if csrc is None or config.read_stamp(extension).get("sources") == config.source_digest(csrc):
            return extension
    if csrc is None:
        raise ImportError(_nothing_built())
    return on_import.build(csrc, verbose)


def _built_ahead() -> Path | None:
    extension = _PACKAGE_FOLDER / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    return extension if extension.exists() else None


def _check_target(extension: Path) -> None:
    """Raises ImportError if loading ``extension`` into this torch could crash."""
    built_for = config.read_stamp(extension).get("torch", "of an unknown version")
    installed = config.torch_version()
    if built_for != installed:
        raise ImportError(
            f"torch_ext was built for torch {built_for}, and torch {installed} is installed ({extension}). "
            f"Build it again, in a checkout of torch_ext: {config.INSTALL_COMMAND}"
        )


def _nothing_built() -> str:
    others = sorted(path.name for path in _PACKAGE_FOLDER.glob("_C.*.so"))
    return (
        f"torch_ext has no extension for this Python ({sysconfig.get_config_var('SOABI')}) in {_PACKAGE_FOLDER}, "
        f"where there is {', '.join(others) or 'none at all'}, and no sources to build one from. "
        f"Install it with this Python, in a checkout of torch_ext: {config.INSTALL_COMMAND}"
    )


def _load_from(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(_NAME, path)
    assert spec is not None  # .so is a suffix that Python knows
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[_NAME] = module
    vars(sys.modules[_PACKAGE])["_C"] = module
    return module


def _show_log(extension: Path) -> None:
    log = on_import.log_of(extension)
    said = log.read_text(errors="replace") if log.exists() else ""
    sys.stderr.write(f"{said}torch_ext: loaded from {extension}\n")
