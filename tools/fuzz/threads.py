# SPDX-License-Identifier: BSD-3-Clause
"""Runs one program on several threads at once: they share its Functions, and each has tensors and graphs of its own.

A lone thread has to write on torch_ext what one writes on stock, and each of several what a lone one does.
"""

import contextlib
import difflib
import gc
import sys
import threading
import warnings
from pathlib import Path

from harness import VARIANTS
from harness.scenario import Scenario

from .compare import CPU, Difference, Run, load, no_collections_by_chance, placeless, prepare

THREADS = 4
# So often stock torch may show that it keeps threads apart no better.
_TRIES = 20
_SWITCH = 1e-5  # seconds; with a GIL, threads would seldom meet in a short program otherwise

#: What a program has in common with all threads, or learns from what they did. Programs with these are left out.
SHARED = frozenset(
    {
        "allow_mutation_on_saved_tensors",
        "anomaly mode",
        "anomaly mode without NaN checks",
        "backward in a thread",
        "class changed",
        "class changed inside forward",
        "class given another forward",
        "default dtype",
        "deterministic",
        "dual input",
        "dual numbers",
        "dual numbers and gradients",
        "dual numbers in place",
        "dual_level",
        "garbage collected",
        "in a thread",
        "make_fx",
        "node creation hook",
        "profiler",
        "torch.func.hessian",
        "torch.func.jacfwd",
        "torch.func.jvp",
        "torch.jit.trace",
    }
)


def suits(program):
    """Whether threads can't see each other in a program."""
    used = set().union(*program.facilities(), *(function.facilities() for function in program.functions))
    return not used & SHARED


class _OfThisThread:
    """For Functions that several threads share: the scenario of the thread that calls."""

    def __init__(self):
        vars(self)["_own"] = threading.local()

    def __getattr__(self, name):
        return getattr(self._own.scenario, name)

    def __setattr__(self, name, value):
        setattr(self._own.scenario, name, value)

    def _is(self, scenario):
        self._own.scenario = scenario


def check(program, phase=lambda name: None):
    """Run a program on threads; returns what is known about the run, or raises Difference."""
    return compare(program.text_for_threads(), program.variant, phase)


def compare(text, variant, phase=lambda name: None, threads=THREADS):
    """Run a program's text on one thread on stock, and on one and on several on a variant.

    Raises:
        Difference: a lone thread differs from one on stock, both times; or one of several from a lone one, and on
            stock none of several ever did.
    """
    defined = load(text)
    run = Run()
    try:
        stock, lone = _run_alone(defined, variant, phase)
    except Difference:
        run.unsteady = True
    if run.unsteady:  # if this time there is none, it was what torch does on first use
        stock, lone = _run_alone(defined, variant, phase)
    run.outcomes = stock.outcomes
    several = _run(defined, variant, threads)
    with contextlib.suppress(Difference):
        _require_same_everywhere(lone, several, variant)
        return run
    phase("stock")
    run.unsteady = any(each.lines != stock.lines for _ in range(_TRIES) for each in _run(defined, "stock", threads))
    if not run.unsteady:
        _require_same_everywhere(lone, several, variant)
    return run


def _run_alone(defined, variant, phase):
    phase("stock")
    (stock,) = _run(defined, "stock", 1)
    phase(variant)
    (lone,) = _run(defined, variant, 1)
    _require_same(stock.lines, lone.lines, "stock", variant)
    return stock, lone


def _require_same_everywhere(lone, several, variant):
    for number, each in enumerate(several):
        _require_same(lone.lines, each.lines, f"{variant}, a lone thread", f"thread {number} of {len(several)}")


def _require_same(expected, actual, of_expected, of_actual):
    expected, actual = placeless(expected), placeless(actual)
    if actual != expected:
        lines = difflib.unified_diff(expected, actual, of_expected, of_actual, n=4, lineterm="")
        raise Difference("\n".join(lines))


def _run(defined, name, threads):
    """The scenarios of threads that ran a program at once on the variant with that name."""
    variant = VARIANTS[name]
    shared = _OfThisThread()
    found = [None] * threads
    failed = []
    barrier = threading.Barrier(threads)

    def work(number):
        try:
            scenario = found[number] = Scenario(variant.api(), CPU, "subject")
            shared._is(scenario)
            barrier.wait()
            defined["program"](scenario, *functions)
        except BaseException as error:  # of the fuzzer's own: the program's are in its transcript
            failed.append(error)
            barrier.abort()

    with variant.active(), _meeting_often(shared), no_collections_by_chance():
        shared._is(Scenario(variant.api(), CPU, "subject"))
        functions = defined["functions"](shared)
        running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    gc.collect()
    if failed:
        raise failed[0]
    return found


@contextlib.contextmanager
def _meeting_often(shared):
    """Threads take turns often; nothing is warned of, which is the process's; each gets its own unraisable errors."""
    interval, hook = sys.getswitchinterval(), sys.unraisablehook
    sys.setswitchinterval(_SWITCH)
    sys.unraisablehook = lambda report: shared.record("unraisable", report.exc_value, report.err_msg)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.unraisablehook = hook
        sys.setswitchinterval(interval)


def main(path, variant):
    """Run the program in a file, and print the difference."""
    prepare()
    try:
        run = compare(Path(path).read_text(), variant)
    except Difference as difference:
        print(difference)
        sys.exit(1)
    print(f"the same on stock and on {THREADS} threads on {variant}; steps: {', '.join(run.outcomes)}")
