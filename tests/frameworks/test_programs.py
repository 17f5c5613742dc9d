# SPDX-License-Identifier: BSD-3-Clause
"""Trainings with Lightning, transformers and accelerate, unchanged, under python and under torch-ext run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

LAUNCHERS = {
    # On CPUs it starts several processes by MPI alone, and so torchrun does it here.
    "accelerate": ("-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "1"),
    "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
}

# What launches the program, the program and its arguments; its Function, how often a process calls it, and how many
# lines each process writes that have to be equal.
TRAININGS = {
    "Lightning": ((), ("lightning_program.py",), "Clamp", 12, 13),
    "Lightning on two processes": ((), ("lightning_program.py", "--ddp"), "Clamp", 6, 14),
    "Trainer": ((), ("trainer_program.py",), "Swish", 24, 8),
    "Trainer with checkpoints": ((), ("trainer_program.py", "--checkpoint"), "Swish", 48, 8),
    "accelerate": ((), ("accelerate_program.py",), "Spike", 8, 1),
    "accelerate launch": (LAUNCHERS["accelerate"], ("accelerate_program.py",), "Spike", 8, 1),
    "accelerate on two processes": (LAUNCHERS["torchrun"], ("accelerate_program.py",), "Spike", 4, 2),
}

# The program, and the line of the call that has made the node whose gradient is NaN.
NANS = {
    "Lightning": ("lightning_program.py", "hidden = hidden + Norm.apply(hidden - hidden)", "NormBackward"),
    "Trainer": ("trainer_program.py", 'return Swish.apply(x, "--nan" in sys.argv)', "SwishBackward"),
    "accelerate": ("accelerate_program.py", "return self.second(Spike.apply(hidden))", "SpikeBackward"),
}


def run(folder, *command):
    """The finished process of ``python COMMAND`` in a new folder."""
    folder.mkdir()
    own = ("TORCH_EXT", "TORCH_EXT_RUN", "TORCH_EXT_ALONE", "RANK", "LOCAL_RANK", "WORLD_SIZE")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    more = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "ACCELERATE_USE_CPU": "true",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder),
    }
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**environment, **more},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def exact(printed):
    """The lines with losses and parameters, in each bit; the processes write them in any order."""
    return sorted(line for line in printed.splitlines() if line.startswith(("exact:", "rank ", "process ")))


@pytest.mark.parametrize("training", TRAININGS)
def test_a_training_is_the_same_bit_for_bit(tmp_path, training):
    launcher, (program, *arguments), function, calls, lines = TRAININGS[training]
    program = str(HERE / program)
    status, printed, errors = run(tmp_path / "stock", *launcher, program, *arguments)
    assert status == 0, errors
    assert len(exact(printed)) == lines
    ours = ("-m", "torch_ext", "run", "--json", "report.json", program)
    status, our_printed, errors = run(tmp_path / "ours", *launcher, *ours, *arguments)
    assert status == 0, errors
    assert exact(our_printed) == exact(printed)
    # Each process has called it on torch_ext.
    reports = [json.loads(path.read_text()) for path in (tmp_path / "ours").glob("report*.json")]
    called = [{each["name"]: each["forward"]["calls"] for each in report["functions"]} for report in reports]
    assert [each.get(function) for each in called] == [calls] * (2 if "two processes" in training else 1)


@pytest.mark.parametrize("program", NANS)
def test_a_nan_names_its_line_in_the_frameworks_anomaly_mode(tmp_path, program):
    name, source, node = NANS[program]
    path = HERE / name
    (line,) = [number for number, text in enumerate(path.read_text().splitlines(), 1) if text.strip() == source]
    status, _, errors = run(tmp_path / "ours", "-m", "torch_ext", "run", str(path), "--nan")
    assert status == 1 and f"RuntimeError: Function '{node}' returned nan values in its 0th output." in errors
    notes = errors.partition(f"Forward call that made {node}, whose backward failed")[2]
    assert f'File "{path}", line {line}, in forward\n    {source}\n' in notes
