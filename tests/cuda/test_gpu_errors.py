# SPDX-License-Identifier: BSD-3-Clause
"""Errors that only a GPU has: those that come late, and memory that is not there."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from harness import scenario
from harness.engine import settle
from late_errors import CASES

SCRIPT = Path(__file__).with_name("late_errors.py")


@functools.cache
def outcome(variant, case, blocking):
    """What a case printed, and its exit status. The GPU's own messages go to stderr."""
    paths = [str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "CUDA_LAUNCH_BLOCKING": "1" if blocking else "0",
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT), variant, case], env=environment, capture_output=True, check=False, text=True
    )
    return done.stdout, done.returncode


@pytest.mark.parametrize("blocking", [False, True], ids=["launches return", "launches wait"])
@pytest.mark.parametrize("case", CASES)
def test_late_error_comes_as_on_stock(variant, case, blocking):
    expected = outcome("stock", case, blocking)
    assert "device-side assert" in expected[0]
    assert outcome(variant, case, blocking) == expected


TOO_MUCH = 1 << 40  # bytes


@scenario
def out_of_memory(s):
    def allocate():
        return torch.empty(TOO_MUCH, dtype=torch.uint8, device=s.device)

    class Fails(s.Function):
        @staticmethod
        def forward(ctx, x, at_once):
            ctx.save_for_backward(x.exp())
            return allocate() if at_once else x * 2

        @staticmethod
        def backward(ctx, grad):
            (saved,) = ctx.saved_tensors
            return saved * allocate(), None

    def allocated():
        settle(s.device)
        return torch.cuda.memory_allocated(s.device) - start

    def attempt(label, call, *args):
        try:
            call(*args)
        except torch.OutOfMemoryError as error:
            # How much is free varies.
            s.record(label, type(error), str(error).partition(". ")[0])

    x = s.randn(1000, requires_grad=True)
    start = torch.cuda.memory_allocated(s.device)
    attempt("forward", Fails.apply, x, True)
    s.record("kept", allocated())
    y = Fails.apply(x, False)
    attempt("backward", y.sum().backward)
    s.record("kept with the graph", allocated())
    del y
    s.record("kept", allocated())
    handle = x.register_hook(lambda grad: allocate())
    attempt("hook", (x * 2).sum().backward)
    handle.remove()
    (x * 2).sum().backward()
    s.record("input", x)
