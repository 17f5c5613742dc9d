# SPDX-License-Identifier: BSD-3-Clause
"""Processes that run programs by their numbers, and may crash or hang."""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import wait

from .search import Found, check, check_apart, describe, draw, smallest, text_of

_BATCH = 100  # how many numbers a worker takes at a time
_PHASES = ("stock", "ours", "installed", "shrinking")
_MOST_SHRUNK = 5  # by one worker; the next ones are shown as they are
_spawn = multiprocessing.get_context("spawn")


@dataclass
class Report:
    """What came of some numbers.

    Attributes:
        programs: how many ran.
        facilities: for each facility, how often a step that uses it had each outcome.
        used: for each facility, how many programs use it.
        found: differences.
        stock_crashes: numbers of programs that stock torch did not survive.
        stock_leaks: how many programs left less alive on torch_ext than on stock.
        after_assertion: how many differed only after an assertion of torch's own had failed in them.
        unsteady: how many differed, but not when they ran again, or on threads on stock as well.
        left_out: how many were not run, since threads would see each other in them.
    """

    programs: int = 0
    left_out: int = 0
    used: Counter = field(default_factory=Counter)
    facilities: dict[str, Counter] = field(default_factory=dict)
    found: list[Found] = field(default_factory=list)
    stock_crashes: list[int] = field(default_factory=list)
    stock_leaks: int = 0
    after_assertion: int = 0
    unsteady: int = 0

    def add(self, program, run):
        self.programs += 1
        self.stock_leaks += run.stock_leaks
        self.after_assertion += run.after_assertion
        self.unsteady += run.unsteady
        steps = program.facilities()
        self.used.update(set().union(*steps))
        for facilities, outcome in zip(steps, run.outcomes, strict=True):
            for facility in facilities:
                self.facilities.setdefault(facility, Counter())[outcome] += 1

    def merge(self, other):
        self.programs += other.programs
        self.left_out += other.left_out
        self.stock_leaks += other.stock_leaks
        self.after_assertion += other.after_assertion
        self.unsteady += other.unsteady
        self.used.update(other.used)
        self.found += other.found
        self.stock_crashes += other.stock_crashes
        for facility, outcomes in other.facilities.items():
            self.facilities.setdefault(facility, Counter()).update(outcomes)


def run_batch(seed, indices, doing=lambda index, phase: None, shrink=True, on_threads=False):
    """A Report on the programs with these numbers."""
    report = Report()
    for index in indices:
        doing(index, "stock")
        program = draw(seed, index)
        difference = None
        try:
            run = check(program, lambda phase, index=index: doing(index, phase), on_threads)
            if run is None:
                report.left_out += 1
            else:
                report.add(program, run)
        except Exception as error:
            difference = describe(error)
        # Not in the handler, in which the exceptions of programs would get this one as their context.
        if difference is not None:
            report.programs += 1
            found = _smallest(seed, index, doing, on_threads) if shrink and len(report.found) < _MOST_SHRUNK else None
            text = text_of(program, f"Program {index} of seed {seed}.", on_threads)
            report.found.append(found or Found(index, text, difference))
    return report


def _smallest(seed, index, doing, on_threads):
    """The smallest program that differs as that one does. Each one that is tried is a run of its own for `doing`."""

    def check_smaller(program, on_threads):
        doing(index, "shrinking")
        check(program, on_threads=on_threads)

    return smallest(seed, index, check_smaller, on_threads=on_threads)


class _Worker:
    """A process, what it is doing, and since when."""

    def __init__(self, seed, on_threads):
        self.doing = _spawn.Array("q", [-1, 0, 0], lock=False)  # the number, the phase, and how often it was noted
        self.connection, theirs = _spawn.Pipe()
        self.process = _spawn.Process(target=_serve, args=(seed, on_threads, self.doing, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.batch = range(0)
        self.seen = 0
        self.since = time.monotonic()

    def take(self, batch):
        self.batch = batch
        self.connection.send(batch)

    def hangs(self, patience):
        """Whether one run of a program has been going on for so many seconds."""
        now = time.monotonic()
        if self.doing[2] != self.seen:
            self.seen, self.since = self.doing[2], now
        return now - self.since > patience

    def end(self):
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(seed, on_threads, doing, connection):
    """In the worker: a report for each batch."""
    from .compare import freeze, prepare

    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare()

    def note(index, phase):
        doing[0], doing[1] = index, _PHASES.index(phase)
        doing[2] += 1

    with contextlib.suppress(EOFError):
        while True:
            batch = connection.recv()
            connection.send(run_batch(seed, batch, note, on_threads=on_threads))
            freeze()


def _crashed(seed, index, phase, how, on_threads):
    """The program that ended a worker."""
    if phase == "stock":
        return Report(programs=1, stock_crashes=[index])
    text = text_of(draw(seed, index), f"Program {index} of seed {seed}.", on_threads)
    if phase == "shrinking":
        return Report(programs=1, found=[Found(index, text, f"differs; as it was made smaller {how}")])
    return Report(programs=1, found=[Found(index, text, f"{how} while it ran on {phase}")])


def run(seed, indices, workers, patience=300, news=lambda report: None, batch=_BATCH, on_threads=False):
    """Run the programs with these numbers in worker processes. Returns a Report.

    Args:
        seed: a program is determined by it and by the number.
        indices: the numbers, a range.
        workers: how many processes.
        patience: seconds for one run of a program, after which it counts as hanging.
        news: called with a Report on each part of the programs, as soon as there is one.
        batch: how many numbers a process takes at a time.
        on_threads: whether each program is run on several threads at once.
    """
    report = Report()
    batches = [indices[i : i + batch] for i in range(0, len(indices), batch)][::-1]
    busy = {}

    def give(worker):
        if batches:
            worker.take(batches.pop())
            busy[worker.connection] = worker
        else:
            worker.end()

    def add(part):
        report.merge(part)
        news(part)

    def bury(worker, how):
        """Note what became of the program, and leave the rest of its batch to other workers."""
        index, phase = worker.doing[0], _PHASES[worker.doing[1]]
        del busy[worker.connection]
        worker.end()
        # What ran before in this batch runs again: its report is lost.
        at = worker.batch.index(index) if index in worker.batch else 0
        before, after = worker.batch[:at], worker.batch[at + 1 :]
        batches.extend(part for part in (after, before) if len(part))
        add(_crashed(seed, index, phase, how, on_threads))
        give(_Worker(seed, on_threads))

    try:
        for _ in range(min(workers, len(batches))):
            give(_Worker(seed, on_threads))
        while busy:
            for connection in wait(list(busy), timeout=1):
                worker = busy[connection]
                try:
                    part = connection.recv()
                except EOFError:
                    worker.process.join()
                    bury(worker, f"the process ended with {_name(worker.process.exitcode)}")
                    continue
                del busy[connection]
                add(part)
                give(worker)
            for worker in [worker for worker in busy.values() if worker.hangs(patience)]:
                bury(worker, f"no end after {patience} s")
    finally:
        for worker in busy.values():
            worker.end()
    return report


def _name(exitcode):
    return signal.Signals(-exitcode).name if exitcode < 0 else f"exit code {exitcode}"


def shrink_crash(seed, found, on_threads=False):
    """The smallest program that crashes as that one does, or that one."""
    from .compare import prepare

    prepare()
    return smallest(seed, found.index, check_apart, on_threads=on_threads) or found


def default_workers():
    return max(1, len(os.sched_getaffinity(0)))
