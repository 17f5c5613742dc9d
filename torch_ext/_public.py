# SPDX-License-Identifier: BSD-3-Clause
"""What ``torch_ext`` offers once its extension is loaded."""

from torch.autograd.function import FunctionCtx, InplaceFunction, NestedIOFunction, once_differentiable

from . import _C, _frame, anomaly, hooks, tracer
from ._build.loader import load
from ._install import accelerate, install, installed, is_installed, uninstall
from .anomaly import detect_anomaly, set_detect_anomaly
from .function import Function

__all__ = [
    "_C",
    "Function",
    "FunctionCtx",
    "InplaceFunction",
    "NestedIOFunction",
    "_frame",
    "accelerate",
    "anomaly",
    "detect_anomaly",
    "hooks",
    "install",
    "installed",
    "is_installed",
    "load",
    "once_differentiable",
    "set_detect_anomaly",
    "tracer",
    "uninstall",
]
