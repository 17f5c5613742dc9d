# SPDX-License-Identifier: BSD-3-Clause
"""Every call that can fail fails once.

For each body our first call to CPython or to an allocator fails, then the second, and so on until all succeed. The
process survives, the failure is reported, nothing leaks, and the next run is right.
"""

import gc
import logging
import sys

import pytest
import torch
from bodies import BODIES
from harness.levels import grows

import torch_ext
from tools.faults import Faults

# A run that loses something does so each time, caches and allocators don't. Each further figure is for the bodies that
# grew with the one before.
REPEATS = (8, 64, 512, 512)

# Where torch's and pybind11's own code, compiled into ours, can't do without memory: it ends the process (the metadata
# is made in Node::metadata(), which may not throw; the note that one object keeps another alive), or loses two strings
# (python_error::persist(), making its message).
NOT_OURS = {
    "anomaly_mode": ("operator new", "PyDict_New"),
    "failure_in_anomaly_mode": ("operator new", "PyDict_New"),
    "change_that_is_named": ("operator new", "PyDict_New"),
    "graph_that_was_freed": ("operator new", "PyDict_New"),
    "raw_saved_tensors": ("operator new",),
    "hook_that_is_refused": ("operator new",),
}


@pytest.fixture(scope="module")
def faults():
    return Faults()


@pytest.fixture
def reported(monkeypatch):
    """Failures that could only be reported: those in a destructor, or in a report on a failure."""
    found = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: found.append(type(report.exc_value)))
    # pytest keeps what is logged alive.
    monkeypatch.setattr(logging.getLogger("torch_ext.anomaly.failures"), "disabled", True)
    return found


def run(body, faults, n):
    """(result, error, name of the function that failed) of the body if its n-th call fails."""
    try:
        with faults.at(n, but=NOT_OURS.get(body.__name__, ())) as fault:
            result, error = body(), None
    except BaseException as raised:
        result, error = None, raised.with_traceback(None)
    return result, error, fault.failed


def is_injected(error):
    """Whether it is the failure itself, or an error that the code raised because of it."""
    while error is not None:
        text = str(error)
        if isinstance(error, MemoryError) or "bad_alloc" in text or text == "error unpacking string as utf-8":
            return True
        error = error.__cause__ or error.__context__
    return False


# A report on a failure reads the source of each frame, and pytest has many; the profiler takes milliseconds.
SLOW = {"failure_in_anomaly_mode", "profiled_call", "change_that_is_named", "graph_that_was_freed"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] * (n in SLOW)) for n in BODIES])
def test_every_call_fails_once(name, faults, reported):
    body = BODIES[name]
    wanted = body()
    assert body() == wanted
    gc.collect()
    gc.freeze()
    n, wrong = 0, []
    while True:
        n += 1
        reported.clear()
        result, error, failed = run(body, faults, n)
        if failed is None:
            assert (result, error) == (wanted, None)
            break
        if error is None and result != wanted and not reported:
            wrong.append(f"{n}: {failed} failed and {result} was returned")
        if error is not None and not is_injected(error):
            wrong.append(f"{n}: {failed} failed and {error!r} was raised")
        assert not torch.is_anomaly_enabled() and not torch_ext.is_installed(), f"left on after {n}: {failed}"
        assert body() == wanted, f"after {n}: {failed}"
        del result, error
        if (lost := grows(lambda n=n: run(body, faults, n), *REPEATS)) and (lost := lost - grows(body, *REPEATS)):
            wrong.append(f"{n}: {failed} failed and {lost} grew")
    gc.unfreeze()
    assert n > 1 and not wrong, "\n".join(wrong)
