# SPDX-License-Identifier: BSD-3-Clause
"""examples/find_nan.py: it finds the operation, and writes its picture."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

SCRIPT = Path(__file__).parents[2] / "examples" / "find_nan.py"


@pytest.fixture
def example(recwarn):
    spec = importlib.util.spec_from_file_location("find_nan", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_finds_the_square_root(example, tmp_path, capsys):
    picture = tmp_path / "new" / "nan.dot"
    assert example.main(["--output", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "Function 'SqrtBackward0' returned nan values in its 0th output." in printed
    assert "forward: deviation = centred.square().mean(0).sqrt()" in printed
    assert "SqrtBackward0\\ngave NaN" in picture.read_text()
    assert not torch.is_anomaly_enabled()


def test_says_so_where_there_is_none(example, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(example, "Standardize", nn.Identity)
    assert example.main(["--output", str(tmp_path / "nan.dot")]) == 1
    assert "no NaN was found" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
