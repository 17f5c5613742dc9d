# SPDX-License-Identifier: BSD-3-Clause
"""The demo: what it prints and draws, and that it shows a difference."""

import contextlib
import importlib
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torch_ext
from torch_ext_cli.demo import spiking_digits

SCRIPT = Path(__file__).parents[2] / "examples" / "spiking_digits.py"
SMALL = ["--epochs", "2", "--steps", "3", "--hidden", "8", "--batch", "256"]
STEPS = 2 * 6  # epochs, and batches of 256 among the 1437 training images


@pytest.fixture
def demo():
    """The program; restores the process-wide settings that its main changes."""
    threads = torch.get_num_threads()
    yield importlib.reload(spiking_digits)
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def png_size(path):
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", header[16:])


@pytest.mark.parametrize("style", ["setup_context", "ctx"])
def test_stock_and_torch_ext_train_alike(demo, style, tmp_path, capsys):
    picture = tmp_path / "new" / "demo.png"
    assert demo.main([*SMALL, "--style", style, "--output", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert f"Losses of all {STEPS} steps: equal bit for bit" in printed
    assert "Trained weights: equal bit for bit" in printed
    assert str(picture) in printed
    width, height = png_size(picture)
    assert width > 2 * height > 0

    rows = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in printed.splitlines() if line.startswith("│")
    ]
    epochs, times = rows[:2], rows[2:]
    for number, (epoch, stock, ours, equal, *accuracies) in enumerate(epochs, start=1):
        assert (epoch, equal) == (str(number), "yes")
        assert re.fullmatch(r"\d\.\d{10}", stock) and stock == ours
        assert accuracies[0] == accuracies[1]
    assert [row[0] for row in times] == ["stock torch", "torch_ext"]
    calls_per_step = 3 * 2  # time steps, layers
    for row in times:
        assert row[3:] == [str(STEPS), str(STEPS * calls_per_step), str(calls_per_step)]


def test_torch_ext_is_on_for_its_own_epochs_only(demo, tmp_path, monkeypatch):
    seen = []
    train_step = demo.Run.train_step

    def spy(run, *arguments):
        seen.append((run.name, torch_ext.is_installed()))
        return train_step(run, *arguments)

    monkeypatch.setattr(demo.Run, "train_step", spy)
    assert demo.main([*SMALL, "--output", str(tmp_path / "demo.png")]) == 0
    assert set(seen) == {("stock torch", False), ("torch_ext", True)}
    assert not torch_ext.is_installed()


def test_a_different_gradient_is_found(demo, tmp_path, monkeypatch, capsys):
    @contextlib.contextmanager
    def another_slope():
        exact = demo.surrogate
        demo.surrogate = lambda grad, excess, slope: exact(grad, excess, 2 * slope)
        try:
            yield
        finally:
            demo.surrogate = exact

    monkeypatch.setattr(torch_ext, "installed", another_slope)
    assert demo.main([*SMALL, "--output", str(tmp_path / "demo.png")]) == 1
    printed = capsys.readouterr().out
    assert f"Losses of all {STEPS} steps: DIFFERENT" in printed
    assert "Trained weights: DIFFERENT" in printed


def test_weights_that_differ_in_one_bit_are_found(demo, tmp_path, monkeypatch, capsys):
    train = demo.train

    def spoil_the_end(*arguments):
        stock, ours = train(*arguments)
        bias = ours.model.readout.bias.detach()
        bias.view(torch.int32)[0] ^= 1
        return stock, ours

    monkeypatch.setattr(demo, "train", spoil_the_end)
    assert demo.main([*SMALL, "--output", str(tmp_path / "demo.png")]) == 1
    printed = capsys.readouterr().out
    assert f"Losses of all {STEPS} steps: equal bit for bit" in printed
    assert "Trained weights: DIFFERENT" in printed


def test_the_script_ends_with_the_status_of_main(tmp_path):
    # The child finds the modules that this process finds.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, SCRIPT, *SMALL, "--output", tmp_path / "demo.png"]
    done = subprocess.run(command, capture_output=True, check=False, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Trained weights: equal bit for bit" in done.stdout


@pytest.fixture
def without_scikit_learn(tmp_path):
    """An environment's variables, with which importing scikit-learn fails."""
    (tmp_path / "sklearn.py").write_text("raise ModuleNotFoundError('gone', name='sklearn')")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *(path for path in sys.path if path)])}


def test_the_command_has_the_options_and_needs_nothing_to_say_so(without_scikit_learn):
    command = [sys.executable, "-m", "torch_ext", "demo"]
    done = subprocess.run([*command, "--help"], capture_output=True, check=True, text=True, env=without_scikit_learn)
    assert "usage: torch-ext demo" in done.stdout
    assert "Example:" in done.stdout
    done = subprocess.run([*command, *SMALL], capture_output=True, check=False, text=True, env=without_scikit_learn)
    line = "torch-ext demo: it needs sklearn, and that is not installed: pip install 'torch_ext[demo]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)


def test_losses_are_compared_by_their_bytes(demo):
    nan = float("nan")
    assert demo.same_bits([0.1, nan], [0.1, nan])
    assert not demo.same_bits([0.0], [-0.0])
    assert not demo.same_bits([0.1], [0.1 + 2**-56])
    assert not demo.same_bits([0.1], [0.1, 0.1])


def test_the_network_learns(demo):
    options = demo.parse_options(["--epochs", "2", "--steps", "10", "--hidden", "32"])
    run = demo.Run("stock torch", contextlib.nullcontext, options)
    digits = demo.Digits.load(options.seed, options.device)
    for _ in range(options.epochs):
        run.train_epoch(digits)
    assert run.epoch_loss(1) < run.epoch_loss(0)
    assert run.accuracies[-1] > 0.5  # guessing gives 0.1


def test_help_explains_every_option(demo, capsys):
    with pytest.raises(SystemExit) as exited:
        demo.parse_options(["--help"])
    assert exited.value.code == 0
    printed = capsys.readouterr().out
    options = re.findall(r"^  (--\w+)", printed, re.MULTILINE)
    assert set(options) == {
        f"--{name}" for name in "epochs steps hidden batch rate seed style threads device output".split()
    }
    assert printed.count("(default:") == len(options)


@pytest.mark.parametrize("arguments", [["--epochs", "0"], ["--device", "abacus"]], ids=" ".join)
def test_wrong_options_are_refused(demo, arguments, capsys):
    with pytest.raises(SystemExit) as exited:
        demo.parse_options(arguments)
    assert exited.value.code == 2
    assert "error: argument" in capsys.readouterr().err
