# SPDX-License-Identifier: BSD-3-Clause
"""How watching gets into the calls of all Functions, and out again.

torch and torch_ext look up forward, setup_context and backward by their names in the class at each call. So while
somebody watches, these stand wrapped in the dict of each class; ``apply`` is nobody's business here, and install() and
its kin may come and go.
"""

import functools
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import torch

from .. import _C, _compat
from . import calls
from .finding import Finding

Report = Callable[[type, Finding], None]

_METHODS = ("forward", "setup_context", "backward", "vjp")

_lock = threading.RLock()  # a class may be made in a finaliser that runs while the lock is held
_reports: tuple[Report, ...] = ()
# What stood there is kept by what stands there now: a method may hold a class.
_patches: list[tuple["weakref.ref[Any]", str]] = []
_BEFORE = "_torch_ext_before"
_metaclass_init: tuple[Any, Any] | None = None


def begin(report: Report) -> None:
    """Has ``report`` called with each finding, and the class, from now on."""
    global _reports
    with _lock:
        if not _reports:
            calls.forget_readings()
            _watch_new_classes()
            for cls in set(_subclasses(_C.torch_function)):
                _patch(cls)
        _reports = (*_reports, report)


def end(report: Report) -> None:
    """Takes back what :func:`begin` did."""
    global _reports
    with _lock:
        _reports = tuple(each for each in _reports if each is not report)
        if not _reports:
            _take_back()


def _subclasses(cls: type) -> Iterator[type]:
    each: type
    for each in type.__subclasses__(cls):
        yield each
        yield from _subclasses(each)


def _watch_new_classes() -> None:
    global _metaclass_init
    metaclass = _compat.function_metaclass()
    before = metaclass.__init__

    @functools.wraps(before)
    def init(cls: Any, *args: Any, **kwargs: Any) -> None:
        before(cls, *args, **kwargs)
        with _lock:
            if _metaclass_init is not None and _metaclass_init[1] is init and issubclass(cls, _C.torch_function):
                _patch(cls)

    metaclass.__init__ = init
    _metaclass_init = before, init


def _take_back() -> None:
    global _metaclass_init
    metaclass = _compat.function_metaclass()
    if _metaclass_init is not None and vars(metaclass).get("__init__") is _metaclass_init[1]:
        metaclass.__init__ = _metaclass_init[0]
    _metaclass_init = None
    for reference, name in _patches:
        cls = reference()
        if cls is not None:
            there = vars(cls).get(name)
            function = there.__func__ if type(there) is staticmethod else there
            # What somebody else has put there meanwhile is theirs.
            if _is_wrapper(function):
                type.__setattr__(cls, name, vars(function)[_BEFORE])
    _patches.clear()


def _patch(cls: Any) -> None:
    if _compat.is_base_function(cls):
        return
    for name in _METHODS:
        there = vars(cls).get(name)
        function = there.__func__ if type(there) is staticmethod else there
        if not (type(function) is FunctionType or (type(there) is staticmethod and callable(function))):
            continue
        if _is_wrapper(function):  # from another class, that is watched
            function = vars(function)["__wrapped__"]
            there = staticmethod(function)
        wrapper = _wrapper(name, function)
        vars(wrapper)[_BEFORE] = there
        type.__setattr__(cls, name, staticmethod(wrapper) if type(there) is staticmethod else wrapper)
        _patches.append((weakref.ref(cls), name))


# torch takes the names of arguments from the code of forward, so a wrapper needs the same. In torch_ext's folder, for
# whoever looks for the caller's line.
_FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "<watched>")
_SOURCE = """
def make(__run, __function, __is_compiling):
    def watched({declared}):
        if __is_compiling():  # torch.compile takes only this branch
            return __function({passed})
        return __run(__function, ({positional}), {{{keywords}}})
    return watched
"""


def _is_wrapper(function: Any) -> bool:
    return type(function) is FunctionType and function.__code__.co_filename == _FILE


def _wrapper(name: str, function: Any) -> Any:
    def run(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not _reports or not _compat.runs_plainly():
            return function(*args, **kwargs)
        return runs(function, args, kwargs)

    runs = {"forward": _forward, "setup_context": _setup_context}.get(name, _backward)
    scope: dict[str, Any] = {"__name__": __name__}
    exec(compile(_SOURCE.format(**arguments_of(function)), _FILE, "exec"), scope)
    watched: Any = functools.wraps(function)(scope["make"](run, function, torch.compiler.is_compiling))
    if type(function) is FunctionType:
        watched.__defaults__, watched.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return watched


def arguments_of(function: Any) -> dict[str, str]:
    """How what is called like ``function`` declares its arguments and passes them on."""
    if type(function) is not FunctionType:
        return {
            "declared": "*args, **kwargs",
            "passed": "*args, **kwargs",
            "positional": "*args,",
            "keywords": "**kwargs",
        }
    code = function.__code__
    end = code.co_argcount + code.co_kwonlyargcount
    plain, only = code.co_varnames[: code.co_argcount], code.co_varnames[code.co_argcount : end]
    others = list(code.co_varnames[end:])
    rest = [f"*{others.pop(0)}"] if code.co_flags & inspect.CO_VARARGS else []
    more = [f"**{others.pop(0)}"] if code.co_flags & inspect.CO_VARKEYWORDS else []
    declared = list(plain)
    if code.co_posonlyargcount:
        declared.insert(code.co_posonlyargcount, "/")
    declared += (rest or ["*"] * bool(only)) + list(only) + more
    positional = [*plain, *rest]
    return {
        "declared": ", ".join(declared),
        "passed": ", ".join([*positional, *(f"{each}={each}" for each in only), *more]),
        "positional": "".join(f"{each}, " for each in positional),
        "keywords": ", ".join([*(f"'{each}': {each}" for each in only), *more]),
    }


# --- The calls ------------------------------------------------------------------------------------


class _Local(threading.local):
    """What runs on a thread.

    Attributes:
        active: the ids of the ctx whose methods run, which may call those of a base class.
        pending: the versions of the tensors that a forward without ctx was given, for the setup_context that follows.
    """

    def __init__(self) -> None:
        self.active: set[int] = set()
        self.pending: calls.Versions = {}


_local = _Local()


def _forward(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not args or not _compat.is_ctx(args[0]):
        with _compat.without_overrides():
            before = calls.versions_of(args)
        output = function(*args, **kwargs)
        _local.pending = before
        return output
    ctx, *values = args
    if id(ctx) in _local.active:
        return function(*args, **kwargs)
    with _compat.without_overrides():
        before = calls.versions_of(args)
    _local.active.add(id(ctx))
    try:
        output = function(*args, **kwargs)
    finally:
        _local.active.discard(id(ctx))
    _observe(calls.observe_forward, ctx, tuple(values), before, output)
    return output


def _setup_context(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    before, _local.pending = _local.pending, {}
    if len(args) != 3 or not _compat.is_ctx(args[0]) or id(args[0]) in _local.active:
        return function(*args, **kwargs)
    ctx, inputs, output = args
    _local.active.add(id(ctx))
    try:
        result = function(*args, **kwargs)
    finally:
        _local.active.discard(id(ctx))
    _observe(calls.observe_forward, ctx, inputs, before, output)
    return result


def _backward(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not args or not _compat.is_ctx(args[0]) or id(args[0]) in _local.active:
        return function(*args, **kwargs)
    ctx, *gradients = args
    with _compat.without_overrides():
        before = calls.versions_of(args)
    _local.active.add(id(ctx))
    try:
        result = function(*args, **kwargs)
    finally:
        _local.active.discard(id(ctx))
    # boxed_grads_call: one list, which backward may have emptied.
    boxed = len(gradients) == 1 and type(gradients[0]) is list
    _observe(calls.observe_backward, ctx, () if boxed else tuple(gradients), before, result)
    return result


def _observe(observe: Any, ctx: Any, values: tuple[Any, ...], before: calls.Versions, result: Any) -> None:
    """Reports on a call, once it is over: a warning that is an error must not leave it half observed."""
    cls = type(ctx)._forward_cls
    static = calls.reading_of(cls)[1]
    seen: list[Finding] = []
    with _compat.without_overrides():
        observe(ctx, values, before, result, seen.append)
    # What the source shows too has the line of the statement there.
    known = {(each.kind, each.what) for each in static}
    found = [*static, *(each for each in seen if (each.kind, each.what) not in known)]
    for report in _reports:
        for finding in found:
            report(cls, finding)
