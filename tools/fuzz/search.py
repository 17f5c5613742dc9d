# SPDX-License-Identifier: BSD-3-Clause
"""Programs by their number, and the smallest one with a difference."""

import contextlib
import faulthandler
import math
import os
import random
import signal
import traceback
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.database import InMemoryExampleDatabase
from hypothesis.internal.conjecture import engine

from . import threads
from .compare import Difference, compare
from .program import Program
from .steps import programs

_BYTES = 4000  # of random data: more than a program takes
_TRIES = 1000  # to make a program smaller: most are as small as they go after 200


@dataclass(frozen=True)
class Found:
    """A program on which torch_ext differs from stock.

    Attributes:
        index: the number of the program that was found.
        text: the smallest such program, as a file's text.
        difference: the difference of its transcripts, or how it ended the process.
    """

    index: int
    text: str
    difference: str


def draw(seed, index):
    """The program with that number."""
    _drawn.clear()
    _draw.hypothesis.fuzz_one_input(_bytes(seed, index))
    return _drawn.pop()


def check(program, phase=lambda name: None, on_threads=False):
    """Run a program on stock and on its variant. Returns what is known about the run, or raises Difference.

    With ``on_threads`` it is run on several at once. None is returned for one in which these could see each other.
    """
    if not on_threads:
        return compare(program.text(), program.variant, phase)
    return threads.check(program, phase) if threads.suits(program) else None


def text_of(program, title, on_threads=False):
    """The text of a file that runs a program as :func:`check` does."""
    return program.text_for_threads(title) if on_threads else program.text(title)


def check_apart(program, on_threads=False):
    """The same in a process of its own, so that a crash is a difference too. Returns nothing."""
    phases, to_phases = os.pipe()
    child = os.fork()
    if child == 0:
        _end_as(program, to_phases, on_threads)
    os.close(to_phases)
    with open(phases) as stream:
        last = stream.read().split()[-1:]
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and last != ["stock"]:
        raise Difference(f"the process ended with {signal.Signals(os.WTERMSIG(status)).name} while it ran on {last[0]}")


def _end_as(program, to_phases, on_threads):
    """In the child: run the program, write how far it gets, and exit."""
    faulthandler.disable()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        check(program, lambda name: os.write(to_phases, f"{name}\n".encode()), on_threads)
    finally:
        os._exit(0)


def smallest(seed, index, check=check, tries=_TRIES, on_threads=False):
    """The smallest program found in so many tries that fails as this one does, and how; None if it passes.

    How long a try takes makes no difference: on a slow machine the same program is found.
    """
    database = InMemoryExampleDatabase()
    failed = []
    left = iter(range(tries))

    def fails(program):
        if next(left, None) is None:
            return  # finds nothing smaller any more, which ends the search
        try:
            check(program, on_threads=on_threads)
        except Exception as error:
            failed.append((program, describe(error)))
        # Always the same exception from the same place, which for hypothesis is the same failure; and not from
        # within the handler, where the next program's exceptions would get this one as their context.
        if failed and failed[-1][0] is program:
            raise Difference("found")

    test = _test(fails, database, [Phase.reuse, Phase.shrink])
    with contextlib.suppress(Exception):
        test.hypothesis.fuzz_one_input(_bytes(seed, index))
    if not failed:
        return None
    with contextlib.suppress(Exception), _no_time_limit():
        test()  # begins with what the database has
    program, difference = min(failed, key=lambda failure: len(failure[0].text()))
    title = f"The smallest program that differs as program {index} of seed {seed} does."
    return Found(index, text_of(program, title, on_threads), difference)


@contextlib.contextmanager
def _no_time_limit():
    """A context in which hypothesis doesn't end shrinking after five minutes."""
    seconds, engine.MAX_SHRINKING_SECONDS = engine.MAX_SHRINKING_SECONDS, math.inf
    try:
        yield
    finally:
        engine.MAX_SHRINKING_SECONDS = seconds


def describe(error):
    """The difference; the traceback of any other exception, which is an error in the fuzzer itself."""
    return str(error) if isinstance(error, Difference) else "".join(traceback.format_exception(error))


def _bytes(seed, index):
    return random.Random(f"{seed}/{index}").randbytes(_BYTES)


def _test(body, database=None, phases=()):
    @settings(
        database=database,
        deadline=None,
        phases=phases,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(programs())
    def test(program):
        body(program)

    return test


_drawn: list[Program] = []
_draw = _test(_drawn.append)
