# SPDX-License-Identifier: BSD-3-Clause
"""torchrun -m torch_ext run: an unchanged program trains as under torchrun alone, and is started again as there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("training_program.py")

# What a program is told, and how torchrun starts it.
CASES = {
    "a training": ((), ("--standalone", "--nproc-per-node", "2")),
    # Killed in backward; the second time it goes on from what was saved.
    "an elastic restart": (("--die",), ("--standalone", "--nproc-per-node", "2", "--max-restarts", "1")),
    "a worker that raises": (("--raise",), ("--standalone", "--nproc-per-node", "2", "--max-restarts", "0")),
}


def torchrun(options, program, folder):
    """The exit status of torchrun, and what its workers and it have said."""
    folder.mkdir()
    own = ("TORCH_EXT", "TORCH_EXT_RUN", "TORCH_EXT_ALONE", "RANK", "WORLD_SIZE")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    # Otherwise those that are started again find where the first ones had been: in torch 2.13, with --standalone.
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *options, *program],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    said = {path.name: path.read_text().splitlines() for path in sorted(folder.glob("rank*"))}
    return done.returncode, said, done.stderr


def on_stock_torch(said):
    """What was said, but for the line that says on what the program runs."""
    return {name: [line.replace("torch_ext: True", "torch_ext: False") for line in said[name]] for name in said}


@pytest.mark.parametrize("case", CASES)
def test_a_program_does_what_it_does_under_torchrun_alone(tmp_path, case):
    arguments, options = CASES[case]
    status, said, errors = torchrun(options, [str(PROGRAM), *arguments], tmp_path / "stock")
    run = ["-m", "torch_ext", "run", str(PROGRAM)]
    our_status, ours, our_errors = torchrun(options, [*run, *arguments], tmp_path / "ours")
    assert status == our_status == (case == "a worker that raises"), f"{errors}\n{our_errors}"
    assert said.keys() == ours.keys() == {"rank0", "rank1"}
    assert all("on torch_ext: True" in lines for lines in ours.values())
    assert on_stock_torch(ours) == on_stock_torch(said) == said
    begun = [line for line in said["rank0"] if line.startswith("start")]
    assert begun == ["start 0, from step 0", "start 1, from step 2"][: 1 + (case == "an elastic restart")]
    for each in errors, our_errors:
        assert ("ValueError: a Function of rank 1 failed" in each) == (case == "a worker that raises")
