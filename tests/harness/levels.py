# SPDX-License-Identifier: BSD-3-Clause
"""What is in use in the process, and whether it grows with each run of something."""

import ctypes
import functools
import gc
import sys
import sysconfig

import torch

from torch_ext.graph import noting

#: Whether Python was built to run without a GIL.
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

OBJECTS = (None, True, False, (), 0, "", torch.float32, torch.strided)
if not FREE_THREADED:  # there each thread counts its own references to a class
    OBJECTS += (torch.Tensor, torch.autograd.Function)

NAMES = ("blocks", "objects", "C++ memory", *(f"references to {obj!r}" for obj in OBJECTS))


class _Heap(ctypes.Structure):
    """What glibc's mallinfo2() returns."""

    _fields_ = [
        (name, ctypes.c_size_t) for name in "arena ordblks smblks hblks mapped usmblks fsmblks in_use free keep".split()
    ]


_mallinfo = ctypes.CDLL(None).mallinfo2
_mallinfo.restype = _Heap


def levels():
    """Python's blocks and objects, malloc's memory (in units of 64 bytes), reference counts: as NAMES lists them."""
    gc.collect()
    heap = _mallinfo()
    used = (heap.in_use + heap.mapped) // 64
    objects = len(gc.get_objects()) + gc.get_freeze_count()
    return [sys.getallocatedblocks(), objects, used, *map(sys.getrefcount, OBJECTS)]


@functools.cache
def fill_records(depth=40):
    """Fills what torch_ext remembers in anomaly mode, which is bounded, with stacks as long as it takes."""
    if depth:
        fill_records.__wrapped__(depth - 1)
        return
    with noting(operators=True):
        x = torch.ones(1, requires_grad=True)
        for _ in range(20_000):
            torch.ones(1).add_(1)  # with a counter of its own
        for _ in range(3_000):
            x.detach()
            x.backward()


def grows(work, repeat):
    """Which levels rise by one or more with each of ``repeat`` runs of ``work()``: a set of names."""
    fill_records()
    work()
    before = levels()
    for _ in range(repeat):
        work()
    after = levels()
    return {name for name, first, last in zip(NAMES, before, after, strict=True) if last - first >= repeat}
