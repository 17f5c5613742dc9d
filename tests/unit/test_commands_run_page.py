# SPDX-License-Identifier: BSD-3-Clause
"""docs/commands.md, what it shows of run: it is what the command prints, but for the times."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/commands.md").read_text()
SECTION = PAGE[PAGE.index("\n## run\n") :]
PROGRAM = re.search(r"With this `train.py`\n\n```python\n(.*?)```", SECTION, re.DOTALL)[1]
SHOWN = re.findall(r"`torch-ext (run [^`]*)` prints[^\n]*:\n\n```text\n(.*?)```", SECTION, re.DOTALL)


def without_times(text):
    """The words, with numbers and their units as one; the width of a column follows the numbers."""
    text = re.sub(r"-?[\d,.]+ (s|ms|µs)\b", "TIME", text)
    text = re.sub(r"process \d+", "process N", re.sub(r"[\d.]+%", "SHARE", text))
    return [line.split() for line in text.splitlines()]


def test_what_is_shown():
    assert [command for command, _ in SHOWN] == [
        "run --report train.py",
        "run --strict train.py",
        "run --compare 2 train.py",
    ]


@pytest.mark.parametrize("command,shown", SHOWN, ids=[command for command, _ in SHOWN])
def test_the_page_shows_what_is_printed(command, shown, tmp_path):
    (tmp_path / "train.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "torch_ext", *shlex.split(command)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    printed = done.stdout.replace(f"{tmp_path}{os.sep}", "")
    # Of Functions with about the same time either may come first.
    assert sorted(without_times(printed)) == sorted(without_times(shown))
