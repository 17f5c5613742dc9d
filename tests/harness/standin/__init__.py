# SPDX-License-Identifier: BSD-3-Clause
"""A stand-in for a GPU: two devices of type ``standin``, on which a wait that is missing gives a wrong value.

What runs there is the CPU's kernels, on threads of their own. Each of a device's streams has one, and starts work only
when somebody waits for it, or asks whether it has run: a stream is as late as a GPU's may be, each time. Memory is the
host's. The allocator counts it, hands it out in the order of streams, and overwrites what is given back. An error of a
kernel comes late, and stays.

``load()`` compiles what is in csrc/, where that is not done yet, and adds the device to this process's torch.
"""

import functools
import sys
import warnings
from pathlib import Path

import torch

NAME = "standin"
# Tests that stock torch can't run there either, by the ends of their names, and why.
LEFT_OUT = {
    "test_two_devices.py::data_parallel": "DataParallel scatters with functions that only torch's CUDA builds have",
    "test_nn_functions.py::data_parallel_functions_without_a_gpu": "it is about DataParallel without an accelerator",
}
_CSRC = Path(__file__).with_name("csrc")
_BUILDS = Path(__file__).parents[3] / "build" / "standin"


def _build():
    """The path of the extension for this torch: built by torch's own means, which have it built once at a time."""
    from torch.utils import cpp_extension

    from torch_ext._build import config

    folder = _BUILDS / f"torch-{torch.__version__}"
    return cpp_extension.load(
        NAME,
        config.unity_sources(_CSRC, folder),
        extra_cflags=[*config.COMPILE_FLAGS, "-O1"],
        extra_include_paths=[str(_CSRC)],
        build_directory=str(folder),
        is_python_module=False,
    )


@functools.cache
def load():
    """Add the device to torch, once a process. Compiling takes a minute, once for each torch."""
    _build()
    torch.utils.rename_privateuse1_backend(NAME)
    from . import device_module

    torch._register_device_module(NAME, device_module)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
    sys.modules[f"torch.{NAME}"] = device_module
