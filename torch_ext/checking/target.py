# SPDX-License-Identifier: BSD-3-Clause
"""Finding what is named on a command line: ``module:Class`` or ``file.py:Class``."""

import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import _C


class NotFoundError(Exception):
    """What is named isn't there, or isn't what it has to be. Its text is one line for the user."""


class Target:
    """The name of a class: ``module:Class``, ``file.py:Class``, ``module:Outer.Inner``.

    Args:
        text: the name.

    Raises:
        NotFoundError: the name has another form.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._place, colon, self.name = text.rpartition(":")
        if not colon or not self._place or not all(each.isidentifier() for each in self.name.split(".")):
            raise NotFoundError(f"expected module:Class or file.py:Class, got {text!r}")

    def load(self) -> type:
        """Imports the module, or runs the file, and returns the class.

        Raises:
            NotFoundError: something of it isn't there, can't be imported, or is no Function.
        """
        module = load_module(self._place)
        found: Any = module
        for part in self.name.split("."):
            if not hasattr(found, part):
                raise NotFoundError(f"{self._place} has no {self.name}{_similar(self.name, module)}")
            found = getattr(found, part)
        return checked(found, self.text)

    def is_name_of(self, cls: type) -> bool:
        """Whether ``cls`` is the class, however its module came to be loaded."""
        if cls.__qualname__ != self.name:
            return False
        if not _is_file(self._place):
            return cls.__module__ == self._place
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        return file is not None and Path(self._place).exists() and os.path.samefile(file, self._place)


def find_class(text: str) -> type:
    """The Function that ``text`` names, ``module:Class`` or ``file.py:Class``.

    Raises:
        NotFoundError: there is none; the text says why.
    """
    return Target(text).load()


def checked(found: Any, text: str) -> type:
    """``found`` if it is a Function of somebody's own; NotFoundError otherwise."""
    if not isinstance(found, type):
        raise NotFoundError(f"{text} is no class: it is an object of type {type(found).__name__}")
    if not issubclass(found, _C.torch_function):
        raise NotFoundError(f"{text} is no subclass of torch.autograd.Function")
    if found.__module__ in (_C.torch_function.__module__, "torch_ext.function"):
        raise NotFoundError(f"{text} is the base class itself: name a subclass of it")
    return found


def load_module(place: str) -> ModuleType:
    """Imports a module by its name, as from the working folder, or a file.

    Raises:
        NotFoundError: it isn't there, or raises.
    """
    if not _is_file(place):
        sys.path.insert(0, os.getcwd())
        return _import(place, lambda: importlib.import_module(place))
    path = Path(place)
    if not path.is_file():
        raise NotFoundError(f"there is no file {place}")
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise NotFoundError(f"{place} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    loader = spec.loader

    def execute() -> ModuleType:
        loader.exec_module(module)
        return module

    return _import(place, execute)


def describe(error: BaseException) -> str:
    """An exception in one line, with the innermost line of code that isn't Python's own machinery."""
    text = f"{type(error).__name__}: {error}".split("\n", 1)[0]
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith("<frozen")]
    own = [each for each in frames if not each.filename.startswith(os.path.dirname(__file__))]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{text} ({os.path.basename(error.filename)}:{error.lineno})"
    inside = [each for each in own if f"{os.sep}importlib{os.sep}" not in each.filename]
    return f"{text} ({os.path.basename(inside[-1].filename)}:{inside[-1].lineno})" if inside else text


def _import(place: str, load: Any) -> ModuleType:
    try:
        module: ModuleType = load()
    except (Exception, SystemExit) as error:
        raise NotFoundError(f"cannot import {place}: {describe(error)}") from error
    return module


def _is_file(place: str) -> bool:
    return place.endswith(".py") or os.sep in place


def _similar(name: str, module: ModuleType) -> str:
    """What the module has instead."""
    functions = [
        each
        for each, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, _C.torch_function) and value.__module__ == module.__name__
    ]
    return f"; its Functions are {', '.join(functions)}" if functions else ""
