# SPDX-License-Identifier: BSD-3-Clause
"""Where the tests run: what `--device standin` does, and `--device cuda` with a GPU and without."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from harness import devices

ROOT = Path(__file__).parents[2]
FILES = sorted(path for folder in ("cuda", "device") for path in (ROOT / "tests" / folder).glob("test_*.py"))
NAMES = [path.name for path in FILES]
# About the stand-in itself.
OF_THE_STANDIN = "test_standin.py"
GPU_NAMES = [name for name in NAMES if name != OF_THE_STANDIN]


@pytest.fixture
def gpus(monkeypatch):
    """Sets how many GPUs torch sees, and whether there is Triton."""

    def set_to(count, triton=True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the GPU of {device}")
        monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if triton else None)

    return set_to


def test_without_a_gpu_the_cpu_stands_in_and_it_is_said(gpus):
    gpus(0)
    choice = devices.choose("cuda")
    assert (choice.device, choice.as_asked, choice.has_gpu) == (torch.device("cpu"), False, False)
    assert choice.note.startswith("no GPU that torch")
    assert choice.note.endswith("the tests of tests/device and tests/cuda were left out; the CPU part runs")


def test_with_a_gpu_it_is_used(gpus):
    gpus(2)
    for name in ("cuda", "cuda:1"):
        choice = devices.choose(name)
        assert (choice.device, choice.as_asked, choice.has_gpu) == (torch.device(name), True, True)
        assert choice.note == f"device: {name}, the GPU of {name}"


def test_the_cpu_is_used_where_it_is_asked_for(gpus):
    gpus(2)
    choice = devices.choose("cpu")
    assert (choice.device, choice.as_asked, choice.has_gpu) == (torch.device("cpu"), True, False)
    assert "--device standin, or cuda" in choice.note
    assert [path.name for path in FILES if choice.leaves_out(path)] == NAMES


def test_the_stand_in_runs_all_but_what_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(devices.standin, "load", lambda: None)
    monkeypatch.setattr(torch, "device", lambda name: SimpleNamespace(type=name.partition(":")[0]))
    choice = devices.choose("standin:1")
    assert (choice.device.type, choice.as_asked, choice.has_gpu) == ("standin", True, False)
    assert {path.parent.name for path in FILES if choice.leaves_out(path)} == {"cuda"}
    for name in devices.standin.LEFT_OUT:
        file, _, test = name.partition("::")
        (path,) = (ROOT / "tests").rglob(file)
        assert f"def {test}(" in path.read_text()
        assert choice.cannot_run(f"{path.relative_to(ROOT)}::{test}[ours]")
    assert not choice.cannot_run("tests/device/test_two_devices.py::there_and_back[ours]")


@pytest.mark.parametrize(
    "count, triton, left_out",
    [
        (0, True, GPU_NAMES),
        (1, True, ["test_two_devices.py"]),
        (2, True, []),
        (2, False, ["test_triton.py"]),
        (1, False, ["test_triton.py", "test_two_devices.py"]),
    ],
)
def test_files_that_have_nothing_to_run_on_are_left_out(gpus, count, triton, left_out):
    gpus(count, triton)
    choice = devices.choose("cuda")
    assert {path.name for path in FILES if choice.leaves_out(path)} == {*left_out, OF_THE_STANDIN}
    if count:
        assert [name for name in GPU_NAMES if f"{name} is left out" in choice.note] == left_out


FOLDERS = "tests/cuda", "tests/device"
HARNESS = "tests/parity/test_harness.py::test_same_object_has_the_same_number"


def run_pytest(*arguments, **environment):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--device", "cuda", *arguments]
    paths = os.pathsep.join(filter(None, [str(ROOT), environment.pop("PYTHONPATH", ""), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, **environment, "PYTHONPATH": paths}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False, text=True)


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["one process", "workers"])
def test_pytest_runs_the_cpu_part_and_says_so(options):
    done = run_pytest(*options, HARNESS, *FOLDERS, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    # at the top, and at the end, where one looks
    assert done.stdout.count("the tests of tests/device and tests/cuda were left out; the CPU part runs") == 2


A_GPU = """
import importlib.util
import torch

torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 2
torch.cuda.get_device_name = lambda device: "imitation"
importlib.util.find_spec = lambda name, find=importlib.util.find_spec: None if name == "triton" else find(name)
"""


def test_pytest_collects_the_gpu_tests_where_there_is_one(tmp_path):
    (tmp_path / "imitation.py").write_text(A_GPU)
    done = run_pytest("-p", "imitation", "--collect-only", "-q", HARNESS, *FOLDERS, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    collected = {Path(line.partition("::")[0]).name for line in done.stdout.splitlines() if "::" in line}
    assert collected == {"test_harness.py", *GPU_NAMES} - {"test_triton.py"}
