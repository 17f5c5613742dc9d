# SPDX-License-Identifier: BSD-3-Clause
"""The fuzzer: its programs show no difference, and it would find one."""

import contextlib
import dataclasses
import itertools
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
from harness import torch_is_since

from tools.fuzz import choices, compare, search, threads, workers
from tools.fuzz.__main__ import main
from tools.fuzz.choices import Piece
from tools.fuzz.program import Step

PARTS = 4
PROGRAMS = 2000 // PARTS
PATIENCE = 3600  # seconds for one program, far above what a busy machine needs


@pytest.fixture(scope="module", autouse=True)
def prepared():
    compare.prepare()


@pytest.mark.parametrize("part", range(PARTS))
def test_no_difference(part):
    # In a process of its own: some programs end stock torch.
    report = workers.run(2026, range(part * PROGRAMS, (part + 1) * PROGRAMS), workers=1, patience=PATIENCE)
    assert report.programs == PROGRAMS
    assert not report.found, "\n".join(found.text + found.difference for found in report.found)


def test_no_difference_on_threads():
    report = workers.run(2026, range(PROGRAMS), workers=1, patience=PATIENCE, on_threads=True)
    assert report.programs + report.left_out == PROGRAMS and report.programs > PROGRAMS / 4
    assert not report.found, "\n".join(found.text + found.difference for found in report.found)


def test_what_threads_share_is_left_out():
    assert set(choices.facilities()) >= threads.SHARED
    suiting = [threads.suits(search.draw(2026, index)) for index in range(50)]
    assert 10 < sum(suiting) < 40
    left_out = suiting.index(False)
    assert workers.run_batch(2026, range(left_out, left_out + 1), on_threads=True).left_out == 1


def test_a_function_captures_its_threads_tensor():
    captures = "captured tensor in backward"
    programs = (search.draw(2026, index) for index in itertools.count())
    program = next(each for each in programs if captures in set().union(*each.facilities()))
    assert "total = mix((total, s.inputs[" in program.text_for_threads()
    assert "total = mix((total, x" in program.text()


def _alone_only():
    """once_differentiable that goes wrong while more than one thread of a program lives."""
    others = threading.active_count()

    def once_differentiable(backward):
        return lambda ctx, *grads: backward(ctx, *grads) if threading.active_count() <= others + 1 else None

    return once_differentiable


ON_THREADS = """
import torch
from tools.fuzz.toolbox import *

def functions(s):
    class F0(s.Function):
        @staticmethod
        def forward(ctx, a):
            return a * 2
        @staticmethod
        @s.once_differentiable
        def backward(ctx, grad):
            return grad * 2
    return (F0,)

def program(s, F0):
    x0 = s.randn(3, requires_grad=True)
    attempt(s, "backward", lambda: F0.apply(x0).sum().backward())
    finish(s, x0)
"""


def test_threads_that_disturb_each_other_are_found(monkeypatch):
    ours, stock = compare.VARIANTS["ours"], compare.VARIANTS["stock"]
    right = SimpleNamespace(**vars(ours.api()) | {"once_differentiable": stock.api().once_differentiable})
    monkeypatch.setitem(compare.VARIANTS, "ours", dataclasses.replace(ours, api=lambda: right))
    assert not threads.compare(ON_THREADS, "ours").unsteady

    wrong = SimpleNamespace(**vars(ours.api()) | {"once_differentiable": _alone_only()})
    monkeypatch.setitem(compare.VARIANTS, "ours", dataclasses.replace(ours, api=lambda: wrong))
    with pytest.raises(compare.Difference, match=r"thread \d of 4"):
        threads.compare(ON_THREADS, "ours")

    # What stock's threads do too is none.
    disturbed = SimpleNamespace(**vars(stock.api()) | {"once_differentiable": _alone_only()})
    monkeypatch.setitem(compare.VARIANTS, "stock", dataclasses.replace(stock, api=lambda: disturbed))
    assert threads.compare(ON_THREADS, "ours").unsteady


def test_a_program_is_named_by_seed_and_number():
    assert search.draw(1, 2) == search.draw(1, 2)
    assert search.draw(1, 2).text() != search.draw(1, 3).text() != search.draw(2, 2).text()


def test_what_stock_functions_lack_is_compared_installed():
    drawn = search.draw(1, 2)
    plain = dataclasses.replace(drawn.functions[0], classwide=(), context=())
    declares = dataclasses.replace(plain, context=(Piece("set_output_grad_dtype", "ctx.set_output_grad_dtype()"),))
    calls_plain = Step((), Piece("apply", "return {call}"), 1, (Piece("", "{leaf}", (0,)),) * 3)
    program = dataclasses.replace(drawn, installed=False, steps=(calls_plain,))
    assert dataclasses.replace(program, functions=(plain, plain)).variant == "ours"
    # No step calls it, but another Function may.
    lacking = not torch_is_since("2.14")
    variant = dataclasses.replace(program, functions=(declares, plain)).variant
    assert variant == ("installed" if lacking else "ours")


def _careless(function):
    """once_differentiable without its effect."""
    return function


def test_a_wrong_implementation_is_found_and_made_small(monkeypatch):
    ours = compare.VARIANTS["ours"]
    wrong = SimpleNamespace(**vars(ours.api()) | {"once_differentiable": _careless})
    monkeypatch.setitem(compare.VARIANTS, "ours", dataclasses.replace(ours, api=lambda: wrong))

    report = workers.run_batch(2026, range(50), shrink=False)
    found = search.smallest(2026, report.found[0].index)
    assert "s.once_differentiable" in found.text
    assert found.text.count("def step") == 1  # a call, and its second derivative
    assert found.text.count("(s.Function)") == 1


def test_a_crash_is_a_difference_and_made_small(monkeypatch):
    def crashes(program, phase, on_threads):
        phase("stock")
        phase("ours")
        if "mark_dirty" in set().union(*program.facilities()):
            os.kill(os.getpid(), signal.SIGSEGV)

    monkeypatch.setattr(search, "check", crashes)
    index = next(i for i in range(100) if "mark_dirty" in set().union(*search.draw(3, i).facilities()))
    found = search.smallest(3, index, search.check_apart)
    assert found.difference == "the process ended with SIGSEGV while it ran on ours"
    assert "mark_dirty" in found.text and found.text.count("def step") == 1


def _count_tries(tries):
    """How many programs were tried to make a failing one smaller, and the failure."""
    tried = []

    def fails(program, on_threads):
        tried.append(program)
        raise compare.Difference("always")

    return tried, search.smallest(2026, 0, fails, tries)


def test_a_number_of_tries_ends_shrinking(monkeypatch):
    # No clock does: for ours, and for that of hypothesis, each reading of this one is a day later.
    monkeypatch.setattr(time, "perf_counter", itertools.count(step=86400).__next__)
    monkeypatch.setattr(time, "monotonic", itertools.count(step=86400).__next__)
    first, not_smaller = _count_tries(1)
    some, smaller = _count_tries(100)
    until_the_end, smallest = _count_tries(10**9)
    assert len(first) == 1 < len(some) == 100 < len(until_the_end) < 1000
    assert len(not_smaller.text) > len(smaller.text) > len(smallest.text)


def test_only_a_run_of_one_program_hangs(monkeypatch):
    now = 0.0
    monkeypatch.setattr(workers.time, "monotonic", lambda: now)
    noted = []
    monkeypatch.setattr(workers, "check", lambda program, phase=None, on_threads=False: fails(program))

    def fails(program):
        noted.append(len(doing))
        raise compare.Difference("always")

    doing = []
    workers.run_batch(2026, range(1), lambda index, phase: doing.append(phase))
    assert noted == list(range(1, len(doing) + 1))  # one note before each run, also of each smaller program

    worker = SimpleNamespace(doing=[7, 0, 1], seen=0, since=0.0)
    hangs = lambda: workers._Worker.hangs(worker, patience=10)  # noqa: E731
    assert not hangs()
    for now, notes, end in (9.0, 1, False), (11.0, 1, True), (11.0, 2, False), (20.0, 2, False), (22.0, 2, True):
        worker.doing[2] = notes
        assert hangs() == end


def test_a_difference_has_to_show_twice(monkeypatch):
    # The first run in a process sees what torch does on first use.
    ends = iter([compare.Difference("first"), compare.Run(), compare.Difference("first"), compare.Difference("again")])

    def compare_once(*arguments):
        end = next(ends)
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr(compare, "_compare_once", compare_once)
    assert compare.compare("", "ours").unsteady
    with pytest.raises(compare.Difference, match="again"):
        compare.compare("", "ours")


def _transcript(line="as it is", metadata="", alive=()):
    return [line, f"  metadata: list({metadata})", "alive at the end:", "  dict:", *alive]


def compare_transcripts(monkeypatch, stock, ours, differ):
    """Compare a program that has these transcripts; None if that shows a difference, as it has to with ``differ``."""
    transcripts = iter([stock, ours])
    monkeypatch.setattr(compare, "transcript", lambda *arguments: next(transcripts))
    with pytest.raises(compare.Difference) if differ else contextlib.nullcontext():
        return compare._compare_once("def program(s):\n    pass\n", "ours", lambda name: None)


NODE = ["    'Node': 1"]


@pytest.mark.parametrize(
    "stock, ours, same",
    [
        (_transcript(metadata="'traceback_'", alive=NODE), _transcript(), True),
        (_transcript(metadata="'traceback_'"), _transcript(), False),
        (_transcript(alive=NODE), _transcript("another"), False),
        (_transcript(), _transcript(alive=NODE), False),
    ],
)
def test_what_stocks_leak_keeps_is_no_difference(monkeypatch, stock, ours, same):
    run = compare_transcripts(monkeypatch, stock, ours, differ=not same)
    assert not same or run.stock_leaks


FAILED = ["0 apply raised:", "  text: x INTERNAL ASSERT FAILED at y"]


@pytest.mark.parametrize(
    "stock, ours, same",
    [
        ([*FAILED, "1 backward"], [*FAILED, "1 another"], True),
        ([*FAILED, "  1"], [*FAILED, "  2"], False),  # in the step itself
        (["before", *FAILED], ["otherwise", *FAILED], False),
        ([*FAILED, "1 backward"], ["0 apply returned", "1 another"], False),
        (["1 backward"], [*FAILED, "1 another"], False),
    ],
)
def test_what_follows_a_failed_assertion_of_torchs_is_no_difference(monkeypatch, stock, ours, same):
    run = compare_transcripts(monkeypatch, stock + _transcript(), ours + _transcript(), differ=not same)
    assert not same or run.after_assertion


def test_command_line(capsys):
    assert main(["--seed", "4", "--programs", "3", "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "3 programs, 0 with a difference" in printed
    assert main(["--seed", "4", "--only", "1"]) == 0
    assert search.draw(4, 1).text("Program 1 of seed 4.") in capsys.readouterr().out


def test_command_line_with_threads(capsys):
    suits = next(index for index in itertools.count() if threads.suits(search.draw(4, index)))
    assert main(["--seed", "4", "--only", str(suits), "--threads"]) == 0
    printed = capsys.readouterr().out
    assert search.draw(4, suits).text_for_threads(f"Program {suits} of seed 4.") in printed
    assert "no difference from stock" in printed
    assert main(["--seed", "4", "--first", str(suits), "--programs", "1", "--workers", "1", "--threads"]) == 0
    assert "1 programs, 0 with a difference" in capsys.readouterr().out
