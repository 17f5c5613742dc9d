# SPDX-License-Identifier: BSD-3-Clause
"""Measures a program that several processes train together, on this machine: each runs this module."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import tempfile

import torch

from ..child import environment
from .measure import measure
from .programs import PROGRAMS

# Gloo would otherwise look for a network by the name of the machine.
LOCAL = {"GLOO_SOCKET_IFNAME": "lo"}


def measure_in_processes(program, rounds, steps):
    """Return what the first process of :func:`measure.measure` returns.

    Raises:
        subprocess.CalledProcessError: one of the processes failed.
    """
    variables = environment(**LOCAL)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", __name__, program.name, f"{folder}/store", str(rounds), str(steps)]
        children = [
            subprocess.Popen([*command, str(rank)], env=variables, stdout=subprocess.PIPE)
            for rank in range(program.processes)
        ]
        outputs = [child.communicate()[0] for child in children]
    for child in children:
        if child.returncode != 0:
            raise subprocess.CalledProcessError(child.returncode, child.args)
    return json.loads(outputs[0])


def main(name, store, rounds, steps, rank):
    (program,) = (each for each in PROGRAMS if each.name == name)
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=int(rank),
        world_size=program.processes,
        timeout=datetime.timedelta(minutes=2),  # after which one process notices that the other has died
    )
    outcome = measure(program, int(rounds), int(steps))
    torch.distributed.destroy_process_group()
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(*sys.argv[1:])
