# SPDX-License-Identifier: BSD-3-Clause
"""Puts torch_ext in the place of what torch has, and takes it back.

All of it acts on torch's own class, not on the name ``torch.autograd.Function``, and goes by what stands there now. An
``apply`` that is neither torch's nor torch_ext's is somebody else's: it is left alone, and whoever would have to act on
it refuses and names it.
"""

import contextlib
import threading
from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import TypeVar

import torch

from . import _C, _compat, anomaly

_FunctionT = TypeVar("_FunctionT", bound=type[torch.autograd.Function])

_APPLY_NAME = "torch.autograd.Function.apply"

_lock: threading.RLock = _C.kept.setdefault("install lock", threading.RLock())


def install() -> None:
    """Makes every custom Function of the process run on torch_ext.

    Replaces ``torch.autograd.Function.apply``, and with it the call of every
    subclass, defined before or after, torch's own included. A class that has an
    ``apply`` of its own keeps it. A bound method taken earlier
    (``f = MyFn.apply``) still leads to torch's own.

    Torch's own anomaly mode gets :mod:`torch_ext.anomaly`'s metadata and report:
    ``_execution_engine`` of ``torch.autograd.Variable`` is replaced too.

    Does nothing if it is installed already. Thread safe: a call that is running
    ends as it began.

    Raises:
        RuntimeError: something that is not torch's stands in the place of one of
            the two. Nothing has changed then.
    """
    with _lock:
        if not (is_installed() and anomaly.follows_install()):
            _refuse_others("install() would replace")
        before = anomaly.follow_install(True)
        try:
            if not is_installed():
                _compat.set_apply(_C.torch_function, _C.apply)
        except BaseException:
            anomaly.follow_install(before)
            raise


def uninstall() -> None:
    """Takes back what :func:`install` did.

    ``torch.autograd.Function`` has the very ``apply`` that it had. Existing
    nodes stay valid. Does nothing if torch_ext isn't installed. Thread safe.

    Raises:
        RuntimeError: something that is not torch_ext's has come into the place of
            what :func:`install` put there. Nothing has changed then: call it again
            once that has been taken back.
    """
    with _lock:
        if anomaly.follows_install():
            _refuse_others("torch_ext stays installed: uninstall() would lose")
        before = anomaly.follow_install(False)
        try:
            if is_installed():
                _compat.set_apply(_C.torch_function, _C.torch_apply)
        except BaseException:
            anomaly.follow_install(before)
            raise


def is_installed() -> bool:
    """Whether ``torch.autograd.Function`` has torch_ext's ``apply`` now.

    False also while somebody else's stands there, even if it leads to
    torch_ext's.
    """
    return _compat.function_of(_apply_there()) is _compat.function_of(_C.apply)


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """A context in which torch_ext is installed, for all threads.

    Leaves it installed if it was installed before. Can be nested.

    Raises:
        RuntimeError: as :func:`install` raises it at the beginning, and
            :func:`uninstall` at the end. An exception of the block is not
            replaced: it gets that as a note.
    """
    with _lock:
        before = is_installed()
        install()
    try:
        yield
    except BaseException as error:
        if not before:
            _uninstall_after(error)
        raise
    if not before:
        uninstall()


def accelerate(cls: _FunctionT) -> _FunctionT:
    """Makes one existing Function, and its subclasses, run on torch_ext.

    Usable as a class decorator. Other classes are left alone.

    Args:
        cls: a subclass of ``torch.autograd.Function``.

    Returns:
        ``cls``.

    Raises:
        TypeError: ``cls`` is not such a class, or is ``torch.autograd.Function``
            itself (which :func:`install` is for), or has an ``apply`` of its own.
        RuntimeError: ``cls`` has the ``apply`` of ``torch.autograd.Function``, in
            whose place somebody else's stands.
    """
    if not (isinstance(cls, type) and issubclass(cls, _C.torch_function)):
        raise TypeError(f"accelerate() takes a subclass of torch.autograd.Function, got {cls!r}")
    if cls is _C.torch_function or cls is torch.autograd.Function:
        raise TypeError(
            "accelerate() takes one custom Function; to run all of them on "
            "torch_ext, torch.autograd.Function itself, use torch_ext.install()"
        )
    with _lock:
        owner = _compat.owner_of_apply(cls)
        function = _compat.function_of(vars(owner)["apply"])
        ours = _compat.function_of(_C.apply)
        if function is not ours and function is not _compat.function_of(_C.torch_apply):
            if issubclass(_C.torch_function, owner):
                what_for = f"accelerate() would let {cls.__qualname__} pass by"
                raise RuntimeError(_refusal(what_for, _APPLY_NAME, _apply_there()))
            raise TypeError(
                f"{cls.__qualname__} has an apply of its own, which accelerate() "
                "would hide; accelerate the class whose apply it calls instead"
            )
        # Also while install() is in force, since it may be taken back.
        if _compat.function_of(vars(cls).get("apply")) is not ours:
            _compat.set_apply(cls, _C.apply_for(cls))
    return cls


def _apply_there() -> object:
    return vars(_C.torch_function).get("apply")


def _uninstall_after(error: BaseException) -> None:
    """uninstall() on the way of ``error``, which must not get lost."""
    try:
        uninstall()
    except RuntimeError as refusal:
        vars(error).setdefault("__notes__", []).append(str(refusal))


def _refuse_others(what_for: str) -> None:
    """Raises if an apply or an engine is there that is neither torch's nor torch_ext's."""
    there = _apply_there()
    if not is_installed() and _compat.function_of(there) is not _compat.function_of(_C.torch_apply):
        raise RuntimeError(_refusal(what_for, _APPLY_NAME, there))
    if (engine := anomaly.foreign_engine()) is not None:
        raise RuntimeError(_refusal(what_for, _compat.ENGINE_NAME, engine))


def _refusal(what_for: str, name: str, there: object) -> str:
    what = _describe(there)
    return f"{what_for} {name}, which is not torch's now but {what}. Call it again once that has been taken back"


def _describe(there: object) -> str:
    """What somebody else's apply or engine is and where it comes from. Runs none of its code."""
    if there is None:
        return "missing"
    kind = type(there)
    # By its type: an object may claim another class, and have any attribute.
    function = getattr(there, "__func__", there) if issubclass(kind, (classmethod, staticmethod, MethodType)) else there
    if type(function) is not FunctionType:
        return f"an instance of {kind.__module__}.{kind.__qualname__}"
    code = function.__code__
    # Not the function's own name, which functools.wraps() sets to that of torch's.
    name = f"{function.__globals__.get('__name__')}.{getattr(code, 'co_qualname', code.co_name)}"
    return f"the {kind.__name__} {name} ({code.co_filename}:{code.co_firstlineno})"
