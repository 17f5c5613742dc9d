# SPDX-License-Identifier: BSD-3-Clause
"""What anomaly mode prints, in order, in a form that a scenario can compare.

Two differences are documented and ignored: a custom Function's call has no frame of torch's apply, and an exception
has torch_ext's notes.
"""

import contextlib
import re
import sys
import warnings
from pathlib import Path

from . import assert_same, transcript
from .describe import is_of_scenarios, user_lines
from .variants import STOCK, VARIANTS

_TESTS = str(Path(__file__).parents[1])
_ENTRY = re.compile(r'^  File "(?P<file>.*)", line \d+, in (?P<function>.*)\n(?:    .*\n)*', re.MULTILINE)
_PLUMBING = "torch/autograd/function.py", "apply"
_TORCH_SOURCE = re.compile(r" \(Triggered internally at [^)]*\)")
_COMPILED = re.compile(r"<eval_with_key>\.\d+")


def comparable(text):
    """A warning's text without torch's source line; its stack from the scenario on, without plumbing."""
    text = _COMPILED.sub("<eval_with_key>", _TORCH_SOURCE.sub("", text))
    entries = list(_ENTRY.finditer(text))
    if not entries:
        return text
    lines = [text[: entries[0].start()]]
    begun = False
    for entry in entries:
        file, function = entry["file"], entry["function"]
        begun = begun or is_of_scenarios(file)
        if begun and not (file.endswith(_PLUMBING[0]) and function == _PLUMBING[1]):
            lines.append(entry[0])
    return "".join(lines)


@contextlib.contextmanager
def printing(s):
    """Record every warning as it is given, and every exception that can only be reported."""

    def showwarning(message, category, filename, lineno, file=None, line=None):
        place = f"line {lineno}" if filename.startswith(_TESTS) else "library"
        s.record(f"{category.__name__} at {place}", comparable(str(message)))

    def unraisable(report):
        s.record("unraisable", type(report.exc_value), comparable(str(report.exc_value)))

    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = showwarning
            yield
    finally:
        sys.unraisablehook = hook


def attempt(s, label, call, *args, **kwargs):
    """Record what call(*args, **kwargs) raises, without its notes, and all that is printed meanwhile."""
    with printing(s):
        try:
            result = call(*args, **kwargs)
        except BaseException as error:
            s.record(label, type(error), comparable(str(error)), repr(error.__cause__), user_lines(error.__traceback__))
        else:
            s.record(label, "returned")
            return result
    return None


def under(s, label, call, **options):
    """The same with the implementation's ``detect_anomaly(**options)`` in force."""

    def body():
        with s.detect_anomaly(**options):
            return call()

    return attempt(s, label, body)


def compare_but_for_leaks(body, variant, device, may_keep=False):
    """Compare as ``scenario`` does, although stock leaks: it never releases a parent that it has printed.

    Ours has to, unless it ``may_keep`` something.
    """

    def run(variant):
        lines = transcript(body, variant, device)
        end = lines.index("alive at the end:")
        return lines[:end], lines[end + 2 :]

    # Both from one line, which shows in stacks.
    (expected, _), (actual, alive) = (run(each) for each in (STOCK, VARIANTS[variant]))
    assert_same(body, expected, actual, VARIANTS[variant])
    assert may_keep or not alive or VARIANTS[variant] is STOCK
