# SPDX-License-Identifier: BSD-3-Clause
"""Runs the text of a program on both implementations and compares."""

import contextlib
import difflib
import gc
import importlib
import linecache
import re
import sys
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from harness import VARIANTS
from harness.scenario import transcript

from . import TESTS

# The harness shows those lines of a traceback that are in a scenario's file.
FILE = str(TESTS / "parity" / "fuzzed_program.py")
MODULE = "fuzzed_program"
CPU = torch.device("cpu")

# torch imports these on first use.
_LATE = ("torch._decomp.decompositions_for_jvp", "torch._dynamo", "torch._higher_order_ops")


class Difference(AssertionError):
    """The two transcripts differ; the text is their difference."""


@dataclass
class Run:
    """What is known about a program's run.

    Attributes:
        outcomes: the outcome of each step on stock, "returned" or the name of an exception.
        stock_leaks: whether it left less alive on torch_ext than on stock.
        after_assertion: whether it differed only after an assertion of torch's own had failed in it on both.
        unsteady: whether it differed only once: torch does some things on first use alone.
    """

    outcomes: list = field(default_factory=list)
    stock_leaks: bool = False
    after_assertion: bool = False
    unsteady: bool = False


def prepare():
    """Called once in a process, so that a program's first run doesn't show what torch loads on first use."""
    torch.set_num_threads(1)
    for name in _LATE:
        importlib.import_module(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.forward_ad.dual_level():
            torch.autograd.forward_ad.make_dual(torch.zeros(1), torch.zeros(1))
    # Nodes of other threads are known by their low numbers.
    x = torch.zeros(1, requires_grad=True)
    for _ in range(1000):
        x + 1
    freeze()


def freeze():
    """Keep what is alive now out of the collections to come, which are many."""
    gc.collect()
    gc.freeze()


def load(text):
    """What a program's text defines, by name."""
    # Anomaly mode prints its lines.
    linecache.cache[FILE] = len(text), None, text.splitlines(keepends=True), FILE
    namespace = {"__name__": MODULE, "__file__": FILE}
    exec(compile(text, FILE, "exec"), namespace)
    return namespace


def compare(text, variant, phase=lambda name: None):
    """Run a program's text on stock and on a variant, and once more if they differ.

    Args:
        text: the program.
        variant: the name of the other implementation.
        phase: called with the name of the implementation before that runs, to know it after a crash.

    Raises:
        Difference: they differ, both times.
    """
    with contextlib.suppress(Difference):
        return _compare_once(text, variant, phase)
    # Not in a handler, in which the program's exceptions would get the difference as their context.
    run = _compare_once(text, variant, phase)
    run.unsteady = True
    return run


@contextlib.contextmanager
def no_collections_by_chance():
    """A collection can be seen: a leaf whose old graph is freed gets a new node. So programs call the collector."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _compare_once(text, variant, phase):
    program = load(text)["program"]
    gc.freeze()  # so that collections see what this program makes, and nothing else
    run = Run()

    def body(s):
        program(s)
        run.outcomes = s.outcomes

    body.__module__ = MODULE
    body.__code__ = body.__code__.replace(co_filename=FILE)
    with no_collections_by_chance():
        phase("stock")
        expected = transcript(body, VARIANTS["stock"], CPU)
        outcomes = run.outcomes
        phase(variant)
        actual = transcript(body, VARIANTS[variant], CPU)
        run.outcomes = outcomes
    expected, actual = placeless(expected), placeless(actual)
    if actual != expected:
        expected, expected_alive = _apart(expected)
        actual, alive = _apart(actual)
        run.stock_leaks = expected_alive > alive and _visible_anyway(actual) == _visible_anyway(expected)
        run.after_assertion = not run.stock_leaks and _same_until_an_assertion(expected, actual)
        if not run.stock_leaks and not run.after_assertion:
            lines = difflib.unified_diff(
                [*expected, f"alive: {dict(expected_alive)}"],
                [*actual, f"alive: {dict(alive)}"],
                "stock",
                variant,
                n=4,
                lineterm="",
            )
            raise Difference("\n".join(lines))
    return run


# A warning from libtorch is put down to the innermost Python frame. That is torch's apply on stock, which torch_ext
# does not have, as documented. The second form is that of anomaly mode.
_FROM_LIBTORCH = re.compile(
    r"^(?:warning at (?:library|line \d+)(?=: .*\(Triggered internally at )"
    r"|UserWarning at (?:library|line \d+)(?=: 'ctx.mark_dirty\(\) received))",
    re.DOTALL,
)


def placeless(lines):
    return [_FROM_LIBTORCH.sub("warning", line) for line in lines]


def _visible_anyway(lines):
    """What is left on stock holds nodes of leaves: they keep what anomaly mode noted, and backward uses them again."""
    return [line for line in lines if not line.strip().startswith(("metadata:", "sequence_nr:"))]


def _same_until_an_assertion(expected, actual):
    """Whether an assertion of torch's own failed in a step, and up to the end of that step both are the same."""
    failed = next((at for at, line in enumerate(expected) if "INTERNAL ASSERT FAILED" in line), None)
    if failed is None:
        return False
    end = next((at for at in range(failed, len(expected)) if not expected[at].startswith(" ")), len(expected))
    return actual[:end] == expected[:end]


def _apart(lines):
    """A transcript without its end, and what the end says is alive."""
    start = lines.index("alive at the end:")
    alive = Counter()
    for line in lines[start + 2 :]:
        name, number = line.strip().rsplit(": ", 1)
        alive[name] = int(number)
    return lines[:start], alive


def main(path, variant):
    """Run the program in a file, and print the difference."""
    prepare()
    try:
        run = compare(Path(path).read_text(), variant)
    except Difference as difference:
        print(difference)
        sys.exit(1)
    print(f"the same on stock and on {variant}; steps: {', '.join(run.outcomes)}")
