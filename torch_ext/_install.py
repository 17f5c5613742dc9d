# SPDX-License-Identifier: BSD-3-Clause
"""Puts torch_ext in the place of what torch has, and takes it back."""

import contextlib
import threading
from collections.abc import Iterator
from typing import TypeVar

import torch

from . import _C, _compat, anomaly

_FunctionT = TypeVar("_FunctionT", bound=type[torch.autograd.Function])

_lock = threading.RLock()
# What torch.autograd.Function had as its apply before install(); None otherwise. Kept by importlib.reload().
_torch_apply: object = globals().get("_torch_apply")


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
    """
    global _torch_apply
    with _lock:
        if _torch_apply is None:
            # What can fail comes first, while nothing has changed.
            anomaly.follow_install(True)
            theirs = torch.autograd.Function.__dict__["apply"]
            _compat.set_apply(torch.autograd.Function, _C.apply)
            _torch_apply = theirs


def uninstall() -> None:
    """Takes back what :func:`install` did.

    ``torch.autograd.Function`` has the very ``apply`` that it had. Existing
    nodes stay valid. Does nothing if torch_ext isn't installed. Thread safe.
    """
    global _torch_apply
    with _lock:
        if _torch_apply is not None:
            _compat.set_apply(torch.autograd.Function, _torch_apply)
            _torch_apply = None
            anomaly.follow_install(False)


def is_installed() -> bool:
    """Whether :func:`install` is in force."""
    return _torch_apply is not None


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """A context in which torch_ext is installed, for all threads.

    Leaves it installed if it was installed before. Can be nested.
    """
    with _lock:
        before = is_installed()
        install()
    try:
        yield
    finally:
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
    """
    if not (isinstance(cls, type) and issubclass(cls, torch.autograd.Function)):
        raise TypeError(f"accelerate() takes a subclass of torch.autograd.Function, got {cls!r}")
    if cls is torch.autograd.Function:
        raise TypeError(
            "accelerate() takes one custom Function; to run all of them on "
            "torch_ext, torch.autograd.Function itself, use torch_ext.install()"
        )
    with _lock:
        theirs = _torch_apply or torch.autograd.Function.__dict__["apply"]
        function = _compat.apply_of(cls)
        ours = _compat.function_of(_C.apply)
        if function is not ours and function is not _compat.function_of(theirs):
            raise TypeError(
                f"{cls.__qualname__} has an apply of its own, which accelerate() "
                "would hide; accelerate the class whose apply it calls instead"
            )
        # Also while install() is in force, since it may be taken back.
        if _compat.function_of(vars(cls).get("apply")) is not ours:
            _compat.set_apply(cls, _C.apply_for(cls))
    return cls
