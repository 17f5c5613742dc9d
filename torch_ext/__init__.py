# SPDX-License-Identifier: BSD-3-Clause
"""A drop-in for ``torch.autograd.Function``, rebuilt outside PyTorch.

``torch_ext.install()`` makes every custom Function of the process run on it;
``torch_ext.Function`` is the base class for a Function that should do so alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._build.loader import load

load()

__version__ = "0.1.0"

from torch.autograd.function import (  # noqa: E402
    FunctionCtx,
    InplaceFunction,
    NestedIOFunction,
    once_differentiable,
)

from . import _C, _frame, anomaly, hooks, tracer  # noqa: E402, F401
from ._install import (  # noqa: E402
    accelerate,
    install,
    installed,
    is_installed,
    uninstall,
)
from .anomaly import detect_anomaly, set_detect_anomaly  # noqa: E402
from .function import Function  # noqa: E402

if TYPE_CHECKING:
    from . import graph, lint

__all__ = [
    "Function",
    "FunctionCtx",
    "InplaceFunction",
    "NestedIOFunction",
    "__version__",
    "accelerate",
    "anomaly",
    "detect_anomaly",
    "graph",
    "hooks",
    "install",
    "installed",
    "is_installed",
    "lint",
    "load",
    "once_differentiable",
    "set_detect_anomaly",
    "tracer",
    "uninstall",
]


def __getattr__(name: str) -> Any:
    # Loaded when somebody asks: they are half of the import, and most programs don't.
    if name in ("graph", "lint"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
