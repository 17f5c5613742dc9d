# SPDX-License-Identifier: BSD-3-Clause
"""Has something done at the moment at which ``import torch`` is over, and not a moment later."""

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

_TORCH, _OURS = "torch", "torch_ext"


class _Finder:
    """Finds modules as the others do, and notices when torch, and torch_ext itself, are imported.

    torch_ext imports torch. A program that imports torch_ext first is in the middle of it when torch is there, and
    ``then`` has to wait for both.
    """

    def __init__(self, then: Callable[[], None], root: str | None) -> None:
        self._then = then
        self._root = root
        self._under_way: set[str] = set()
        self._has_torch = False
        self._is_over = False

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        if name not in (_TORCH, _OURS, "torch_ext_cli"):
            return None
        spec = self._found_by_others(name, path, target)
        if name in (_TORCH, _OURS) and not self._is_over and spec is not None and spec.loader is not None:
            self._notice(name, spec.loader)
        return spec

    def _found_by_others(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> Any:
        for finder in list(sys.meta_path):
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = None if find is None else find(name, path, target)
            if spec is not None:
                return spec
        if name == _TORCH or self._root is None:
            return None
        from importlib.machinery import PathFinder

        return PathFinder.find_spec(name, [self._root], target)

    def _notice(self, name: str, loader: Any) -> None:
        before = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            if module.__name__ != name:  # a loader may have several modules
                before(module)
                return
            # The program is to see its loader as it was.
            vars(loader).pop("exec_module", None)
            self._under_way.add(name)
            try:
                before(module)
                self._has_torch = self._has_torch or name == _TORCH
            finally:
                self._under_way.discard(name)
                if self._has_torch and not self._under_way and not self._is_over:
                    self.act()

        # Python leaves such frames out of the traceback of an import that fails.
        exec_module.__code__ = exec_module.__code__.replace(
            co_filename="<frozen importlib._bootstrap>", co_name="_call_with_frames_removed"
        )
        loader.exec_module = exec_module

    def act(self) -> None:
        self._is_over = True
        try:
            self._then()
        finally:
            end()


def begin(then: Callable[[], None], root: str | None) -> None:
    """Has ``then`` called once torch is imported: at once if it is. An error of it is one of the import.

    Args:
        then: what to do.
        root: where torch_ext is if Python doesn't find it.
    """
    finder = _Finder(then, root)
    sys.meta_path.insert(0, finder)
    if _TORCH in sys.modules:
        finder.act()


def end() -> None:
    """Looks at imports no longer."""
    sys.meta_path[:] = [each for each in sys.meta_path if type(each) is not _Finder]
