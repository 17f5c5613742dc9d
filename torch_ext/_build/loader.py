# SPDX-License-Identifier: BSD-3-Clause
"""Finds the compiled extension, or has it compiled, and loads it as ``torch_ext._C``."""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import os
import sys
import threading
from pathlib import Path
from types import ModuleType

from . import cache, config, stamp

_PACKAGE = __package__.partition(".")[0]
PACKAGE_FOLDER = Path(__file__).parents[1]
_NAME = f"{_PACKAGE}._C"

_lock = threading.Lock()


def load(verbose: bool = False) -> ModuleType:
    """Loads the extension and returns its module; importing ``torch_ext`` does this by itself.

    Takes the extension that an installation built for the installed torch, if
    there is one. Without one, or in a checkout whose ``csrc/`` is newer, it is
    compiled now and kept for the next time.

    Args:
        verbose: shows the compiler's whole output on stderr, also if the
            extension is already compiled. The environment variable
            ``TORCH_EXT_VERBOSE=1`` does the same for an import.

    Raises:
        ImportError: the system, Python or torch is not supported, or there is
            no extension for it and none can be compiled. The message says what
            was found, what is needed and what to run.
    """
    with _lock:
        module = sys.modules.get(_NAME)
        if module is None:
            _check_interpreter()
            config.check_environment()
            module = _load(stamp.installed_torch(), verbose or os.environ.get("TORCH_EXT_VERBOSE") == "1")
        elif verbose:
            _show_log(Path(inspect.getfile(module)))
        return module


def _check_interpreter() -> None:
    """Raises ImportError in a sub-interpreter, before torch is imported, which would crash there."""
    current, main = (getattr(ctypes.pythonapi, f"PyInterpreterState_{name}") for name in ("Get", "Main"))
    current.restype = main.restype = ctypes.c_void_p
    if current() != main():
        raise ImportError("torch_ext, like torch, works in the main interpreter only, and this is another one.")


def _load(torch: stamp.Torch, verbose: bool) -> ModuleType:
    """Loads the extension built ahead of time, or if that can't be had, one compiled on import."""
    extension, unfit = built_ahead(torch)
    csrc = config.find_csrc()
    if extension is not None:
        try:
            return load_from(extension)
        except ImportError as error:
            unfit = f"{extension} cannot be loaded: {error}."
            if csrc is None:
                raise ImportError(f"{unfit} {_again()}") from error
    if csrc is None:
        raise ImportError(f"{unfit or _nothing_built()} {_again()}")
    from . import on_import

    try:
        path = on_import.build(csrc, torch, verbose)
    except ImportError as error:
        if unfit is None:
            raise
        raise ImportError(f"{unfit} {error}") from error
    try:
        return load_from(path)
    except ImportError as error:
        raise ImportError(
            f"torch_ext was compiled, and its extension cannot be loaded: {error}. Another C++ library may be in use "
            f"than the compiler's: set CXX to a compiler of this environment. Remove {path} then."
        ) from error


def built_ahead(torch: stamp.Torch) -> tuple[Path | None, str | None]:
    """The extension that an installation built and that fits ``torch``; or None, and why the nearest doesn't fit.

    A checkout's extension that is older than its sources is none.
    """
    csrc = None if config.has_shipped_sources() else config.find_csrc()
    unfit = None
    for extension in candidates(torch):
        reason = stamp.misfit(extension, torch)
        if reason is not None:
            unfit = unfit or reason
        elif csrc is None or stamp.is_of(extension, csrc):
            return extension, None
    return None, unfit


def candidates(torch: stamp.Torch) -> list[Path]:
    """The extensions beside the package for this Python, and first those for the release of ``torch``."""
    release = config.release_of(torch.version)

    def other(extension: Path) -> tuple[bool, str]:
        built_for = str(stamp.read_stamp(extension).get("torch"))
        return config.release_of(built_for) != release, extension.name

    suffix = config.extension_suffix()
    try:
        # By a pattern of glob's, which has to be compiled, it takes longer than the rest of the search.
        names = [name for name in os.listdir(PACKAGE_FOLDER) if name.startswith("_C") and name.endswith(suffix)]
    except OSError:  # in a zip archive
        names = []
    return sorted((PACKAGE_FOLDER / name for name in names), key=other)


def _nothing_built() -> str:
    others = sorted(path.name for path in PACKAGE_FOLDER.glob("_C.*.so"))
    return (
        f"torch_ext has no extension for this Python ({config.abi()}) in {PACKAGE_FOLDER}, "
        f"where there is {', '.join(others) or 'none at all'}, and no sources to build one from."
    )


def _again() -> str:
    return f"Install it again with this Python and torch, in a checkout of torch_ext: {config.INSTALL_COMMAND}"


def load_from(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(_NAME, path)
    assert spec is not None  # .so is a suffix that Python knows
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[_NAME] = module
    vars(sys.modules[_PACKAGE])["_C"] = module
    return module


def _show_log(extension: Path) -> None:
    log = cache.log_of(extension)
    said = log.read_text(errors="replace") if log.exists() else ""
    sys.stderr.write(f"{said}torch_ext: loaded from {extension}\n")
