# SPDX-License-Identifier: BSD-3-Clause
"""What anomaly mode keeps in memory for each node of the graph.

What counts is what malloc has handed out, less the same without the mode: torch's lists of strings, our code
positions, and the dicts with them. Python is told to take all of its memory from malloc, in a process of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import json
import subprocess
import sys
import sysconfig

import torch

import torch_ext

from .child import environment
from .rows import DEPTH, at_depth

NODES = 2000

#: Python without a GIL has an allocator of its own for objects, and no other.
CAN_COUNT = not sysconfig.get_config_var("Py_GIL_DISABLED")

MODES = {
    "torch": torch.autograd.set_detect_anomaly,
    "torch_ext": torch_ext.anomaly.set_detect_anomaly,
}


class _MallInfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


@functools.cache  # what looking it up takes from malloc must not count
def _mallinfo2():
    function = ctypes.CDLL(None).mallinfo2
    function.restype = _MallInfo
    return function


def allocated():
    """Return the bytes that malloc has handed out on the main thread."""
    info = _mallinfo2()()
    return info.uordblks + info.hblkhd


def bytes_per_node(mode, depth):
    """Return the bytes that are kept for each node created in ``mode``, under ``depth`` more Python frames."""

    def make_nodes():
        gc.collect()
        before = allocated()
        x = torch.ones(1, requires_grad=True)
        for _ in range(NODES):
            x = x * 2
        return allocated() - before

    with mode:
        at_depth(depth, make_nodes)  # fills caches
        return at_depth(depth, make_nodes) / NODES


def measure_here():
    """Return {"stack depth": {mode: bytes per node}} for a shallow and a deep stack."""
    return {
        label: {
            name: round(bytes_per_node(mode(True), depth) - bytes_per_node(contextlib.nullcontext(), depth))
            for name, mode in MODES.items()
        }
        for label, depth in (("shallow", 0), (f"{DEPTH} frames deeper", DEPTH))
    }


def in_process_that_counts(module, *arguments):
    """Return the JSON that ``python -m module`` prints in a process in which malloc counts everything."""
    counting = {
        "PYTHONMALLOC": "malloc",
        # What glibc keeps for the thread to use again would count as handed out.
        "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
    }
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment(**counting),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(done.stdout)


def measure_memory():
    """Return what :func:`measure_here` returns in a process in which malloc counts everything."""
    return in_process_that_counts(__name__)


if __name__ == "__main__":
    print(json.dumps(measure_here()))
