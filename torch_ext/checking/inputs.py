# SPDX-License-Identifier: BSD-3-Clause
"""The calls that a Function is tried with: written down in a file, or caught while a program runs."""

import os
import runpy
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch

from .. import _compat
from ..compare.copying import Arguments
from ..lint import patching
from .target import NotFoundError, Target, checked, describe, load_module

# A program that calls a Function with the same kind of arguments only would run to its end.
_MOST_CALLS = 1000


class Call:
    """The arguments of a call.

    If none of the tensors requires grad, all that can do.

    Attributes:
        args, kwargs: the arguments.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [each for each in (*args, *kwargs.values()) if _compat.is_tensor(each)]
        if not any(each.requires_grad for each in tensors):
            args = tuple(_with_gradient(each) for each in args)
            kwargs = {name: _with_gradient(each) for name, each in kwargs.items()}
        self.args, self.kwargs = args, kwargs

    def copied(self) -> Arguments:
        """The arguments as they can be passed again and again."""
        return Arguments(self.args, self.kwargs)

    def changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Call":
        """The same call with what ``change`` makes of each tensor, which requires grad as before."""
        return Call(*_changed((self.args, self.kwargs), change))

    def __str__(self) -> str:
        texts = [_text(each) for each in self.args]
        return ", ".join([*texts, *(f"{name}={_text(each)}" for name, each in self.kwargs.items())])


def call(*args: Any, **kwargs: Any) -> Call:
    """One entry of ``inputs`` in a file, for a call with ``args`` and keyword arguments, ``kwargs``."""
    return Call(args, kwargs)


def from_file(path: str) -> list[Call]:
    """The calls that the file at ``path`` writes down as ``inputs``.

    That is a list, or a function that returns one or yields its elements. Each is a tuple of arguments, a single
    tensor, or ``torch_ext.checking.call(...)``.

    Raises:
        NotFoundError: there is no such file, or its ``inputs`` are something else.
    """
    module = load_module(path if path.endswith(".py") else f"{os.curdir}{os.sep}{path}")
    if not hasattr(module, "inputs"):
        raise NotFoundError(f"{path} has no inputs: write inputs = [(x, y), ...], a list of tuples of arguments")
    inputs: Any = module.inputs
    try:
        entries = list(inputs() if callable(inputs) else inputs)
    except Exception as error:
        raise NotFoundError(f"cannot take the inputs of {path}: {describe(error)}") from error
    if not entries:
        raise NotFoundError(f"inputs of {path} is empty")
    return [_as_call(each, index, path) for index, each in enumerate(entries)]


def _as_call(entry: Any, index: int, path: str) -> Call:
    if isinstance(entry, Call):
        return entry
    if isinstance(entry, torch.Tensor):
        return Call((entry,), {})
    if isinstance(entry, tuple):
        return Call(entry, {})
    raise NotFoundError(
        f"inputs[{index}] of {path} is no tuple of arguments, no tensor and no torch_ext.checking.call(...): "
        f"it is a {type(entry).__name__}"
    )


# --- Of a program ---------------------------------------------------------------------------------


class NotCalledError(Exception):
    """A program ran and didn't call the Function. Its text is one line for the user."""


class _EnoughError(BaseException):
    """Ends a program of which enough is known; no ``except Exception`` stops it."""


class _Catcher:
    """Copies the arguments of a class's first calls, one of each form."""

    def __init__(self, target: Target, most: int) -> None:
        self.target, self.most = target, most
        self.cls: type | None = None
        self.calls: dict[str, Call] = {}
        self._seen = 0

    def before(self, classes: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not any(self.target.is_name_of(each) for each in classes):
            return None
        if self._seen >= _MOST_CALLS or len(self.calls) >= self.most:
            if threading.current_thread() is threading.main_thread():
                raise _EnoughError
            return None
        try:
            copied = Arguments(args, kwargs)
        except Exception:  # noqa: BLE001  # of whatever class of tensors
            return None
        return Call(copied.args, copied.kwargs)

    def after(self, cls: type, noted: Any) -> None:
        if self.target.is_name_of(cls):
            self.cls = cls
            self._seen += 1
            if noted is not None:
                self.calls.setdefault(str(noted), noted)


def caught_in(script: str, arguments: Iterable[str], target: Target, most: int) -> tuple[type, list[Call], str]:
    """Runs a program until it has called a Function often enough, and returns the class and the calls.

    Args:
        script: the program, which runs as ``python script`` does.
        arguments: its ``sys.argv[1:]``.
        target: the class.
        most: how many calls to take, no two of one form. The program ends at the next one, or after 1,000 calls.

    Returns:
        The class, its calls, and how the program ended if it failed.

    Raises:
        NotFoundError: there is no such program.
        NotCalledError: it doesn't call the class.
    """
    if not os.path.exists(script):
        raise NotFoundError(f"there is no file {script}")
    catcher = _Catcher(target, most)
    patching.begin_looking(catcher)
    try:
        ended = _run(script, list(arguments))
    finally:
        patching.end_looking(catcher)
    if catcher.cls is None or not catcher.calls:
        why = f"; it ended by {ended}" if ended else ""
        what = "never called" if catcher.cls is None else "called with arguments that can't be copied only"
        raise NotCalledError(f"{script} ran, and {target.text} was {what}{why}")
    return checked(catcher.cls, target.text), list(catcher.calls.values()), ended


def _run(script: str, arguments: list[str]) -> str:
    """Runs a program; returns how it ended if it failed."""
    argv, sys.argv = sys.argv, [script, *arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    try:
        runpy.run_path(script, run_name="__main__")
    except _EnoughError:
        pass
    except SystemExit as end:
        return "" if end.code in (None, 0) else f"sys.exit({end.code!r})"
    except Exception as error:  # noqa: BLE001  # the program's own
        return describe(error)
    finally:
        sys.argv = argv
    return ""


def _with_gradient(value: Any) -> Any:
    if _compat.is_tensor(value) and (value.is_floating_point() or value.is_complex()):
        return value.detach().requires_grad_()
    return value


def _changed(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if _compat.is_tensor(value):
        return change(value.detach()).requires_grad_(value.requires_grad)
    if type(value) in (list, tuple):
        return type(value)(_changed(each, change) for each in value)
    if type(value) is dict:
        return {key: _changed(each, change) for key, each in value.items()}
    return value


def _text(value: Any) -> str:
    if not _compat.is_tensor(value):
        text = repr(value)
        return text if len(text) <= 40 else f"{text[:37]}..."
    shape, dtype = _compat.form_of(value)
    place = "" if value.device.type == "cpu" else f" on {value.device}"
    return f"{dtype}[{', '.join(map(str, shape))}]{place}{' with gradient' if value.requires_grad else ''}"
