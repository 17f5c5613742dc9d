# SPDX-License-Identifier: BSD-3-Clause
"""Asking each question on both sides."""

import dataclasses
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .. import _C, _compat
from ..compare import Sides
from ..compare.random_state import RandomState
from ..compare.recording import Record, differences, see_error
from ..compare.running import as_at_first, stock_apply
from ..compare.texts import without_addresses
from ..lint import Finding
from ..lint import check as lint_check
from .inputs import Call
from .questions import QUESTIONS, NoError, NotAskedError, Tried

YES, NO, NOT_ASKED = "yes", "no", "-"


@dataclass(frozen=True)
class Answer:
    """What came of a question.

    Attributes:
        question: its name.
        stock, ours: "yes", "no", or "-" if the question makes no sense for the Function.
        stock_why, ours_why: why it isn't "yes".
        differences: (what, on stock torch, on torch_ext) of what was seen and isn't the same bit for bit.
    """

    question: str
    stock: str
    ours: str
    stock_why: str
    ours_why: str
    differences: tuple[tuple[str, str, str], ...]

    @property
    def is_same(self) -> bool:
        """Whether torch_ext does as stock torch does."""
        return (self.stock, self.stock_why) == (self.ours, self.ours_why) and not self.differences


@dataclass(frozen=True)
class Result:
    """What came of checking a Function with one call.

    Attributes:
        function: the module and the qualified name of the class.
        inputs: the arguments, as text.
        answers: one for each question.
        advice: what :func:`torch_ext.lint.check` finds.
    """

    function: str
    inputs: str
    answers: tuple[Answer, ...]
    advice: tuple[Finding, ...]

    @property
    def is_same(self) -> bool:
        """Whether torch_ext does as stock torch does in everything."""
        return all(each.is_same for each in self.answers)

    @property
    def holds(self) -> bool:
        """Whether no answer is "no", on either side."""
        return all(NO not in (each.stock, each.ours) for each in self.answers)

    def to_dict(self) -> dict[str, Any]:
        """The result as a value for JSON."""
        answers = [{**dataclasses.asdict(each), "same": each.is_same} for each in self.answers]
        advice = [dataclasses.asdict(each) for each in self.advice]
        return {"function": self.function, "inputs": self.inputs, "answers": answers, "advice": advice}


def check(
    cls: type, call: Call, skip: Collection[str] = (), on_question: Callable[[str], None] = lambda name: None
) -> Result:
    """Asks of a Function on stock torch and on torch_ext what works, and whether both give the same bit for bit.

    Args:
        cls: a subclass of ``torch.autograd.Function``.
        call: the arguments to try it with.
        skip: names of questions to leave out.
        on_question: called with the name of each question before it is asked.

    Raises:
        RuntimeError: as ``torch_ext.install()`` raises it.
    """
    answers = []
    sides = Sides()
    state = RandomState()
    try:
        for name in QUESTIONS:
            if name not in skip:
                on_question(name)
                answers.append(_ask_both(name, cls, call, sides, state))
        sides.take(stock=False)
        advice = _advice(cls, call)
    finally:
        sides.restore()
        state.restore()
    return Result(f"{cls.__module__}.{cls.__qualname__}", str(call), tuple(answers), advice)


def _ask_both(name: str, cls: Any, call: Call, sides: Sides, state: RandomState) -> Answer:
    stock, stock_why, stock_seen = _ask(name, cls, call, sides, state, stock=True)
    ours, ours_why, ours_seen = _ask(name, cls, call, sides, state, stock=False)
    found = tuple(differences(stock_seen, ours_seen))
    if found:
        again = _ask(name, cls, call, sides, state, stock=False)[2]
        if any(differences(ours_seen, again)):  # random by itself
            found = ()
    return Answer(name, stock, ours, stock_why, ours_why, found)


def _ask(name: str, cls: Any, call: Call, sides: Sides, state: RandomState, *, stock: bool) -> tuple[str, str, Record]:
    sides.take(stock=stock)
    state.restore()
    try:
        with as_at_first(), _quiet():
            return YES, "", QUESTIONS[name](Tried(cls, _apply_of(cls, stock), call))
    except NotAskedError as reason:
        return NOT_ASKED, str(reason), {}
    except NoError as reason:
        return NO, str(reason), {}
    except Exception as error:  # noqa: BLE001  # it is a result
        return NO, _reason(error), {"raises": see_error(error)}


def _apply_of(cls: Any, stock: bool) -> Any:
    """What ``cls.apply`` is on a side, also for a class that runs on torch_ext whatever is installed."""
    there = vars(_compat.owner_of_apply(cls))["apply"]
    is_ours = _compat.function_of(there) is _compat.function_of(_C.apply)
    return stock_apply(cls) if stock and is_ours else cls.apply


@contextmanager
def _quiet() -> Iterator[None]:
    """Warnings come from both sides, and from whatever torch loads meanwhile."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return without_addresses(f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(" :,"))


def _advice(cls: Any, call: Call) -> tuple[Finding, ...]:
    try:
        with _quiet():
            return lint_check(cls, *call.args, **call.kwargs)
    except Exception:  # noqa: BLE001  # what forward or backward raises is an answer already
        return lint_check(cls)
