# SPDX-License-Identifier: BSD-3-Clause
"""The parts of torch_ext that need neither torch nor the extension."""

import importlib.util
import sys
from importlib import import_module
from types import ModuleType


def build_module(name: str) -> ModuleType:
    """``torch_ext._build.NAME``, without importing ``torch_ext`` itself, which would load or compile its extension.

    Raises:
        ImportError: there is no torch_ext, or none that has this module.
    """
    if "torch_ext" not in sys.modules:
        spec = importlib.util.find_spec("torch_ext")
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError("no package torch_ext is found")
        # Never executed. The process ends before anybody could want the real one.
        sys.modules["torch_ext"] = importlib.util.module_from_spec(spec)
    return import_module(f"torch_ext._build.{name}")
