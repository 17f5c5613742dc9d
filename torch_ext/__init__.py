# SPDX-License-Identifier: BSD-3-Clause
"""A drop-in for ``torch.autograd.Function``, rebuilt outside PyTorch.

``torch_ext.install()`` makes every custom Function of the process run on it;
``torch_ext.Function`` is the base class for a Function that should do so alone.

PYTEST_DONT_REWRITE: there is a plugin of pytest in this distribution, and pytest would rewrite all of it, or warn.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx, InplaceFunction, NestedIOFunction, once_differentiable

    from . import anomaly, compare, graph, hooks, lint, profile, tracer
    from ._build.loader import load
    from ._install import accelerate, install, installed, is_installed, uninstall
    from .anomaly import detect_anomaly, set_detect_anomaly
    from .function import Function

__all__ = [
    "Function",
    "FunctionCtx",
    "InplaceFunction",
    "NestedIOFunction",
    "__version__",
    "accelerate",
    "anomaly",
    "compare",
    "detect_anomaly",
    "graph",
    "hooks",
    "install",
    "installed",
    "is_installed",
    "lint",
    "load",
    "once_differentiable",
    "profile",
    "set_detect_anomaly",
    "tracer",
    "uninstall",
]


def _complete() -> None:
    """Loads the extension, and makes all that is public an attribute of the package."""
    from ._build.loader import load

    load()
    public = importlib.import_module("._public", __name__)
    globals().update({name: getattr(public, name) for name in public.__all__})


def _is_command() -> bool:
    """Whether Python imports the package on its way to ``python -m torch_ext``.

    Commands answer at once, and also where the extension doesn't load: each completes the package when it needs it.
    """
    # Python leaves "-m" in the place of the file's name until it has found the file.
    if sys.argv[:1] != ["-m"]:
        return False
    return sys.orig_argv[-len(sys.argv)].endswith(__name__)


def __getattr__(name: str) -> Any:
    # Loaded when somebody asks: they are half of the import, and most programs don't.
    if name in ("compare", "graph", "lint", "profile"):
        return importlib.import_module(f".{name}", __name__)
    if name in __all__ and f"{__name__}._public" not in sys.modules:
        _complete()
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_ipython_extension(shell: Any) -> None:
    """Called by ``%load_ext torch_ext``: adds ``%torch_ext`` and ``%%torch_ext``."""
    from torch_ext_cli import notebook

    notebook.load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Called by ``%unload_ext torch_ext``: takes them away, and uninstalls torch_ext."""
    from torch_ext_cli import notebook

    notebook.unload(shell)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not _is_command():
    _complete()
