# SPDX-License-Identifier: BSD-3-Clause
"""Going from stock torch to torch_ext and back, with the names that are bound to an ``apply``."""

import contextlib
import sys
import weakref
from collections.abc import Iterator, MutableMapping
from types import BuiltinMethodType, MethodType, ModuleType
from typing import Any

from .. import _C, _install

_OWN = ("torch", "torch_ext", "torch_ext_cli")


class Sides:
    """Puts the process on one of the two sides, as often as asked.

    A name bound to the ``apply`` of a Function, as in ``spike = Spike.apply``, keeps leading to the side on which it
    was bound. In modules, and in classes that they define, such names are bound anew at each change. What is kept
    elsewhere, in a closure or an instance, is not found.
    """

    def __init__(self) -> None:
        self._before = _install.is_installed()
        self._seen: weakref.WeakSet[ModuleType] = weakref.WeakSet()
        self._names: list[tuple[weakref.ref[Any], str]] = []

    def take(self, *, stock: bool) -> None:
        """Goes to stock torch if ``stock`` is true, otherwise to torch_ext.

        Raises:
            RuntimeError: as ``torch_ext.install()`` and ``torch_ext.uninstall()`` raise it.
        """
        if stock:
            _install.uninstall()
        else:
            _install.install()
        self._find_names()
        for reference, name in self._names:
            holder = reference()
            if holder is not None and is_bound_apply(there := vars(holder).get(name)):
                type.__setattr__(holder, name, there.__self__.apply) if isinstance(holder, type) else setattr(
                    holder, name, there.__self__.apply
                )

    def restore(self) -> None:
        """Goes back to the side on which the process was at first, unless somebody else's ``apply`` stands there."""
        with contextlib.suppress(RuntimeError):
            self.take(stock=not self._before)

    def _find_names(self) -> None:
        for module in list(sys.modules.values()):
            if type(module) is ModuleType and module not in self._seen:
                self._seen.add(module)
                if module.__name__.partition(".")[0] not in _OWN:
                    self._names += [(weakref.ref(holder), name) for holder, name in _names_in(module)]


def rebind(values: MutableMapping[str, Any]) -> None:
    """Binds anew what of ``values`` is the ``apply`` of a Function."""
    for key, value in values.items():
        if is_bound_apply(value):
            values[key] = value.__self__.apply


def is_bound_apply(value: Any) -> bool:
    """Whether ``value`` is ``MyFn.apply``, of either side."""
    if type(value) not in (MethodType, BuiltinMethodType) or value.__name__ != "apply":
        return False
    cls = value.__self__
    return isinstance(cls, type) and issubclass(cls, _C.torch_function)


def _names_in(module: ModuleType) -> Iterator[tuple[Any, str]]:
    for name, value in list(vars(module).items()):
        if is_bound_apply(value):
            yield module, name
        elif isinstance(value, type) and value.__module__ == module.__name__:
            yield from ((value, each) for each, there in list(vars(value).items()) if is_bound_apply(there))
