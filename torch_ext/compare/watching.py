# SPDX-License-Identifier: BSD-3-Clause
"""While a program runs: the first calls of each Function on both sides, compared bit for bit."""

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..lint import patching
from .copying import Arguments
from .random_state import RandomState
from .recording import Record, differences
from .running import our_apply, record_call, stock_apply

# One comparison at a time, since they set the random numbers of the process.
_comparing = threading.Lock()

_RANDOM = "it gives something else each time it is called, on torch_ext as well"


@dataclass(frozen=True)
class Difference:
    """Something that a call gives on torch_ext and not on stock torch.

    Attributes:
        function: the module and the qualified name of the class.
        call: which call of it, from 1 on.
        what: what differs, as in "gradient 0: values".
        stock, ours: what it is on stock torch and on torch_ext, as text.
    """

    function: str
    call: int
    what: str
    stock: str
    ours: str

    def __str__(self) -> str:
        return f"call {self.call}: {self.what}: {self.stock} on stock torch, {self.ours} on torch_ext"


@dataclass
class _Function:
    """What is known of one class."""

    calls: int = 0
    tried: int = 0
    compared: int = 0
    differences: list[Difference] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Before:
    """A call that is going to be compared, or why it can't be."""

    arguments: Arguments | None
    random_state: RandomState
    reason: str = ""


class Watch:
    """Compares calls while a program runs; what :func:`watch` returns.

    A context manager. Can be used again; what was found stays.

    Args:
        calls: as :func:`watch` takes it.
    """

    def __init__(self, calls: int) -> None:
        self._most = calls
        self._functions: dict[type, _Function] = {}
        self._lock = threading.RLock()

    def __enter__(self) -> "Watch":
        patching.begin_looking(self)
        return self

    def __exit__(self, *_: Any) -> None:
        patching.end_looking(self)

    @property
    def differences(self) -> list[Difference]:
        """What differs between stock torch and torch_ext, in the order in which the Functions were first called."""
        with self._lock:
            return [each for function in self._functions.values() for each in function.differences]

    def report(self) -> str:
        """A table of the Functions that were called, and below it the differences."""
        with self._lock:
            rows = [(_name(cls), function) for cls, function in self._functions.items()]
        if not rows:
            return "No custom Function was called.\n"
        return "\n".join(_table(rows)) + "\n"

    # --- What patching calls ----------------------------------------------------------------------

    def before(self, classes: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Copies ``args`` and ``kwargs`` of a call of one of ``classes``, if it is to be compared.

        Called as the call begins; :meth:`after` gets what it returns.
        """
        with self._lock:
            if all(each in self._functions and self._functions[each].tried >= self._most for each in classes):
                return None
        with patching.aside():
            try:
                return _Before(Arguments(args, kwargs), RandomState())
            except Exception as error:  # noqa: BLE001  # of whatever class of tensors
                return _Before(None, RandomState(), f"its arguments can't be copied: {type(error).__name__}: {error}")

    def after(self, cls: type, noted: Any) -> None:
        """Compares a call of ``cls``, now that it has been made; ``noted`` is what :meth:`before` has returned."""
        with self._lock:
            function = self._functions.setdefault(cls, _Function())
            function.calls += 1
            call = function.calls
            if noted is None or function.tried >= self._most:
                return
            function.tried += 1
        if not _comparing.acquire(blocking=False):  # waiting could be for a backward that waits for this call
            with self._lock:
                function.tried -= 1
            return
        try:
            reason, found = _compare(cls, noted)
        finally:
            _comparing.release()
        with self._lock:
            if reason:
                function.reasons[reason] += 1
            else:
                function.compared += 1
                function.differences += [Difference(_name(cls), call, *each) for each in found]


def watch(*, calls: int = 3) -> Watch:
    """Runs the first calls of each Function on stock torch too, and compares them bit for bit.

    Sees all custom Functions that are called, however they come to run on torch_ext. After a call, it is made again
    with copies of its arguments as they were, and with the same random numbers: on torch_ext, on stock torch, and once
    more on torch_ext, each with a backward. ``forward`` and ``backward`` run so often more, with whatever they do
    besides. Compared are outputs and gradients with all that can be seen of them: their bits, shape, strides,
    ``requires_grad``, ``grad_fn`` and the nodes before it, version; what became of the inputs; exceptions of backward.
    The program's own tensors, graph and random numbers stay as they are.

    Not compared: a call whose ``forward`` raises, or during which another thread compares one; calls in
    ``torch.compile``, ``torch.func`` transforms and tracing, and under a dispatch mode; arguments that can't be
    copied; a Function that gives something else each time.

    Args:
        calls: how many calls of each Function.

    Returns:
        A context manager; its ``report()`` is a table, ``differences`` a list.

    Raises:
        ValueError: ``calls`` is less than 1.
    """
    if calls < 1:
        raise ValueError(f"watch() compares at least one call, got calls={calls}")
    return Watch(calls)


def _compare(cls: type, noted: _Before) -> tuple[str, list[tuple[str, str, str]]]:
    """Why a call can't be compared, or what differs."""
    if noted.arguments is None:
        return noted.reason, []
    state = RandomState()
    with patching.aside():
        try:
            sides = our_apply(cls), stock_apply(cls), our_apply(cls)
            ours, stock, again = (_record(apply, noted) for apply in sides)
            found = list(differences(stock, ours))
            return (_RANDOM, []) if found and any(differences(ours, again)) else ("", found)
        except Exception as error:  # noqa: BLE001  # of whatever class of tensors; the program goes on
            return f"its results can't be compared: {type(error).__name__}: {error}", []
        finally:
            state.restore()


def _record(apply: Any, noted: _Before) -> Record:
    assert noted.arguments is not None
    return record_call(apply, noted.arguments, noted.random_state)


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


# --- The table ------------------------------------------------------------------------------------


def _table(rows: list[tuple[str, _Function]]) -> Iterator[str]:
    width = max(len("Function"), *(len(name) for name, _ in rows))
    yield f"{'Function':{width}}  {'calls':>8}  {'compared':>8}"
    for name, function in rows:
        yield f"{name:{width}}  {function.calls:8}  {function.compared:8}  {_verdict(function)}".rstrip()
        for reason, count in function.reasons.items():
            yield f"    {count} not compared: {reason}"
        yield from (f"    {each}" for each in function.differences)


def _verdict(function: _Function) -> str:
    if function.differences:
        return "different"
    return "equal bit for bit" if function.compared else "not compared"
