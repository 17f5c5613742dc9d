# SPDX-License-Identifier: BSD-3-Clause
"""Regions without gradients, in which all operators are followed: what is computed there leaves the graph.

``torch.no_grad``, ``torch.set_grad_enabled`` and ``torch.inference_mode`` tell nobody, so their methods are replaced
while somebody wants to know. Regions that C++ enters, as for a Function's forward, are none of these.
"""

import contextlib
import functools
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch

from .. import _C, _compat

# no_grad goes through set_grad_enabled.
_METHODS: tuple[tuple[type, str], ...] = (
    (torch.set_grad_enabled, "__init__"),
    (torch.set_grad_enabled, "__enter__"),
    (torch.set_grad_enabled, "__exit__"),
    (torch.inference_mode, "__enter__"),
    (torch.inference_mode, "__exit__"),
)


class _Thread(threading.local):
    """Whether this thread's operators are followed because of a region."""

    follows = False


_this_thread = _Thread()
_lock = threading.RLock()
_wishes = 0
_originals: dict[tuple[type, str], Callable[..., Any]] = {}


def watch(on: bool) -> None:
    """Watches for regions from now on, if ``on``: for as long as one more wants it."""
    global _wishes
    if not on:
        return
    with _lock:
        _wishes += 1
        if _wishes == 1:
            for cls, name in _METHODS:
                original = _originals[cls, name] = vars(cls)[name]
                setattr(cls, name, _followed_by_look(original))
    _look(torch.is_grad_enabled())


def watch_no_longer(on: bool) -> None:
    """Takes back one :func:`watch`."""
    global _wishes
    if not on:
        return
    with _lock:
        _wishes -= 1
        if _wishes:
            return
        for (cls, name), original in _originals.items():
            # Whoever has replaced it meanwhile goes on.
            if getattr(vars(cls)[name], "__wrapped__", None) is original:
                setattr(cls, name, original)
        _originals.clear()
    _look(True)


def _followed_by_look(method: Callable[..., Any]) -> Callable[..., Any]:
    def method_and_look(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        # Whoever has entered a region has to be let in, or it would never be left.
        with contextlib.suppress(Exception):
            # An optimizer computes no loss.
            by_optimizer = sys._getframe(1).f_globals.get("__name__", "").startswith("torch.optim")
            _look(torch.is_grad_enabled() or by_optimizer)
        return result

    _compat.pass_over_frame(method_and_look.__code__)
    return functools.wraps(method)(method_and_look)


def _look(has_grad: bool) -> None:
    if _this_thread.follows == has_grad:
        _this_thread.follows = not has_grad
        _C.follow_operators(not has_grad)
