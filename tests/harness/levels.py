# SPDX-License-Identifier: BSD-3-Clause
"""What is in use in the process, and whether it grows with each run of something."""

import ctypes
import gc
import sys
import sysconfig

import torch

from torch_ext import _C

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
    """Python's blocks and objects, malloc's memory (in units of 64 bytes), reference counts: as NAMES lists them.

    What torch_ext remembers of the past is bounded and left out: larger records than those of earlier tests would look
    like a leak until they have taken the place of all of them.
    """
    _C.forget_notes()
    gc.collect()
    heap = _mallinfo()
    used = (heap.in_use + heap.mapped) // 64
    objects = len(gc.get_objects()) + gc.get_freeze_count()
    return [sys.getallocatedblocks(), objects, used, *map(sys.getrefcount, OBJECTS)]


def grows(work, *repeats):
    """Which levels rise by one or more with each run of ``work()``: a set of names.

    With several ``repeats`` they are those that do so in each of several series of runs.
    """
    rising = set(NAMES)
    for repeat in repeats:
        work()
        before = levels()
        for _ in range(repeat):
            work()
        after = levels()
        rising &= {name for name, first, last in zip(NAMES, before, after, strict=True) if last - first >= repeat}
        if not rising:
            break
    return rising
