# SPDX-License-Identifier: BSD-3-Clause
"""docs/explain.md: what it shows is what the examples print."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOWN = dict(
    re.findall(
        r"`python (examples/\w+\.py)` prints:\n\n```text\n(.*?)\n```", (ROOT / "docs/explain.md").read_text(), re.DOTALL
    )
)


def test_examples_are_shown():
    assert {
        "examples/changed_in_place.py",
        "examples/backward_twice.py",
        "examples/no_gradient.py",
        "examples/function_mistakes.py",
    } <= set(SHOWN)


@pytest.mark.parametrize("example", SHOWN)
def test_the_page_shows_what_is_printed(example):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", example],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip("\n") == SHOWN[example]
    assert max(map(len, done.stdout.split("\n"))) <= 100
