# SPDX-License-Identifier: BSD-3-Clause
"""How watching gets into the calls of all Functions, and out again: for lint, and for whoever else looks at calls.

torch and torch_ext look up forward, setup_context and backward by their names in the class at each call. So while
somebody watches, these stand wrapped in the dict of each class; ``apply`` is nobody's business here, and install() and
its kin may come and go.
"""

import contextlib
import functools
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, Protocol

import torch

from .. import _C, _compat
from . import calls
from .finding import Finding

Report = Callable[[type, Finding], None]


class Look(Protocol):
    """Somebody who looks at calls of forward."""

    def before(self, classes: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Called before forward, of one of ``classes``; what it returns is passed on to :meth:`after`."""

    def after(self, cls: type, noted: Any) -> None:
        """Called when forward, and setup_context, of ``cls`` have returned, but not if they raise."""


_METHODS = ("forward", "setup_context", "backward", "vjp")

_lock = threading.RLock()  # a class may be made in a finaliser that runs while the lock is held
_reports: tuple[Report, ...] = ()
_looks: tuple[Look, ...] = ()
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
        _begin()
        _reports = (*_reports, report)


def end(report: Report) -> None:
    """Takes back what :func:`begin` did."""
    global _reports
    with _lock:
        _reports = tuple(each for each in _reports if each is not report)
        _end()


def begin_looking(look: Look) -> None:
    """Has ``look`` called at each call of forward from now on."""
    global _looks
    with _lock:
        _begin()
        _looks = (*_looks, look)


def end_looking(look: Look) -> None:
    """Takes back what :func:`begin_looking` did."""
    global _looks
    with _lock:
        _looks = tuple(each for each in _looks if each is not look)
        _end()


def _begin() -> None:
    if not (_reports or _looks):
        _watch_new_classes()
        for cls in set(_subclasses(_C.torch_function)):
            _patch(cls)


def _end() -> None:
    if not (_reports or _looks):
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
        wrapper = _wrapper(name, function, weakref.ref(cls))
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


def _wrapper(name: str, function: Any, owner: "weakref.ref[Any]") -> Any:
    def run(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not (_reports or _looks) or _local.is_aside or not _compat.runs_plainly():
            return function(*args, **kwargs)
        return runs(function, args, kwargs)

    forward = functools.partial(_forward, owner)
    runs: Any = {"forward": forward, "setup_context": _setup_context}.get(name, _backward)
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
        pending: what was noted before a forward without ctx, for the setup_context that follows.
        is_aside: whether nobody looks.
    """

    def __init__(self) -> None:
        self.active: set[int] = set()
        self.pending: _Noted | None = None
        self.is_aside = False


class _Noted:
    """What is noted before a call of forward: the tensors' versions for the reports, and what the looks return."""

    def __init__(self, classes: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.versions = _versions_of(args)
        self._classes = classes
        self._by_looks = [(look, look.before(classes, args, kwargs)) for look in _looks]

    def tell(self, cls: type) -> None:
        for look, noted in self._by_looks if cls in self._classes else ():
            look.after(cls, noted)


_local = _Local()


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """A context in which nobody looks at what this thread calls."""
    before, _local.is_aside = _local.is_aside, True
    try:
        yield
    finally:
        _local.is_aside = before


def _versions_of(args: tuple[Any, ...]) -> calls.Versions:
    if not _reports:
        return {}
    with _compat.without_overrides():
        return calls.versions_of(args)


def _classes_of(owner: "weakref.ref[Any]") -> tuple[type, ...]:
    """The classes that may have been called if the forward of ``owner`` is: setup_context will tell."""
    cls = owner()
    return (cls, *_subclasses(cls)) if _looks and cls is not None else ()


def _forward(owner: "weakref.ref[Any]", function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not args or not _compat.is_ctx(args[0]):
        noted = _Noted(_classes_of(owner), args, kwargs)
        output = function(*args, **kwargs)
        _local.pending = noted
        return output
    ctx, *values = args
    if id(ctx) in _local.active:
        return function(*args, **kwargs)
    noted = _Noted((type(ctx)._forward_cls,), tuple(values), kwargs)
    _local.active.add(id(ctx))
    try:
        output = function(*args, **kwargs)
    finally:
        _local.active.discard(id(ctx))
    _observe(calls.observe_forward, ctx, tuple(values), noted.versions, output)
    noted.tell(type(ctx)._forward_cls)
    return output


def _setup_context(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    noted, _local.pending = _local.pending, None
    if len(args) != 3 or not _compat.is_ctx(args[0]) or id(args[0]) in _local.active:
        return function(*args, **kwargs)
    ctx, inputs, output = args
    _local.active.add(id(ctx))
    try:
        result = function(*args, **kwargs)
    finally:
        _local.active.discard(id(ctx))
    _observe(calls.observe_forward, ctx, inputs, {} if noted is None else noted.versions, output)
    if noted is not None:
        noted.tell(type(ctx)._forward_cls)
    return result


def _backward(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not args or not _compat.is_ctx(args[0]) or id(args[0]) in _local.active:
        return function(*args, **kwargs)
    ctx, *gradients = args
    before = _versions_of(args)
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
    if not _reports:
        return
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
