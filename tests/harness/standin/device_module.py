# SPDX-License-Identifier: BSD-3-Clause
"""``torch.standin``: what the tests and torch itself use of a device's module, named as in ``torch.cuda``."""

import torch
from torch.accelerator import current_device_index as current_device
from torch.accelerator import (
    current_stream,
    empty_cache,
    max_memory_allocated,
    memory_allocated,
    memory_stats,
    reset_peak_memory_stats,
    set_stream,
    synchronize,
)
from torch.accelerator import set_device_index as set_device

__all__ = [
    "current_device",
    "current_stream",
    "empty_cache",
    "max_memory_allocated",
    "memory_allocated",
    "memory_stats",
    "reset_peak_memory_stats",
    "set_device",
    "set_stream",
    "synchronize",
]

_TYPE = "standin"
_ops = torch.ops.standin
_SYNC_DEBUG_MODES = ("default", "warn", "error")


# torch.accelerator asks these.
def device_count():
    return 2


def is_available():
    return True


def _index(device):
    if isinstance(device, int):
        return device
    index = None if device is None else torch.device(device).index
    return current_device() if index is None else index


class Stream(torch.Stream):
    def __new__(cls, device=None, priority=0):
        return super().__new__(cls, device=torch.device(_TYPE, _index(device)), priority=priority)


class stream:
    """Work on a stream, and on its device."""

    def __init__(self, stream):
        self.stream = stream

    def __enter__(self):
        self.device = current_device()
        self.around = current_stream(self.stream.device)
        set_stream(self.stream)

    def __exit__(self, *_):
        set_stream(self.around)
        set_device(self.device)


class device:
    def __init__(self, device):
        self.index = _index(device)

    def __enter__(self):
        self.around = current_device()
        set_device(self.index)

    def __exit__(self, *_):
        set_device(self.around)


def _sleep(cycles):
    """The stream is late by itself; what is behind this is late also where somebody waits for all before it."""
    _ops.sleep(1)


def set_sync_debug_mode(mode):
    _ops.set_sync_debug_mode(_SYNC_DEBUG_MODES.index(mode))


# In torch 2.11 accelerator.synchronize() returns at once unless torch has called this.
def _lazy_init():
    pass


# Random numbers


def is_initialized():
    return True


_initialized = True


def _is_in_bad_fork():
    return False


def manual_seed_all(seed):
    _ops.manual_seed_all(seed)


def get_rng_state(device=None):
    return _ops.rng_state(_index(device))


def set_rng_state(state, device=None):
    _ops.set_rng_state(state, _index(device))


def get_amp_supported_dtype():
    return [torch.float16, torch.bfloat16]
