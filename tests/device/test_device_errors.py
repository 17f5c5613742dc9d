# SPDX-License-Identifier: BSD-3-Clause
"""Errors that only a device has: those that come late, and memory that is not there."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from harness import scenario
from harness.engine import settle

SCRIPT = Path(__file__).with_name("late_errors.py")


@functools.cache
def outcomes(device, variant, blocking):
    """What each case printed, and its exit status. The device's own messages go to stderr."""
    paths = [str(SCRIPT.parents[2]), str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        **{f"{kind}_LAUNCH_BLOCKING": "1" if blocking else "0" for kind in ("CUDA", "STANDIN")},
    }
    command = [sys.executable, str(SCRIPT), device, variant]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)


@pytest.mark.parametrize("blocking", [False, True], ids=["launches return", "launches wait"])
def test_late_errors_come_as_on_stock(device, variant, blocking):
    expected = outcomes(device.type, "stock", blocking)
    assert all("device-side assert" in printed for printed, _ in expected.values()), expected
    assert outcomes(device.type, variant, blocking) == expected


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
        return s.device_module.memory_allocated(s.device) - start

    def attempt(label, call, *args):
        try:
            call(*args)
        except torch.OutOfMemoryError as error:
            # How much is free varies.
            s.record(label, type(error), str(error).partition(". ")[0])

    x = s.randn(1000, requires_grad=True)
    start = s.device_module.memory_allocated(s.device)
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
