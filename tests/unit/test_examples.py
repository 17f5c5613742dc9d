# SPDX-License-Identifier: BSD-3-Clause
"""examples: each says what it shows, and prints what its first lines say, or docs/explain.md, which shows some."""

import ast
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
COMMANDS = {"ddp_training": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]}
PICTURE = {"find_nan"}  # also prints losses, and where its picture is
PRINTS = re.compile(r"^It prints[^\n]*::\n\n((?: {4}.*\n?|\n)+)", re.MULTILINE)


def header(path):
    return ast.get_docstring(ast.parse(path.read_text()))


def said_to_print(path):
    """The text in the example's docstring, None if it refers to a page."""
    found = PRINTS.search(header(path))
    return found and textwrap.dedent(found[1]).strip("\n")


STATED = [path for path in EXAMPLES if said_to_print(path)]


def test_each_example_says_what_it_prints():
    shown = (ROOT / "docs/explain.md").read_text()
    for path in set(EXAMPLES) - set(STATED):
        if path.stem != "spiking_digits":  # prints times; test_demo.py runs it
            assert "docs/explain.md" in header(path), path
            assert re.search(rf"`python examples/{path.name}[^`]*`\s+prints", shown), path


def test_the_page_shows_each_example():
    page = (ROOT / "docs/examples.md").read_text()
    assert [path.name for path in EXAMPLES if f"(../examples/{path.name})" not in page] == []


@pytest.mark.parametrize("path", STATED, ids=[path.stem for path in STATED])
def test_it_prints_that(path, tmp_path):
    own = ["--output", str(tmp_path / "picture.dot")] if path.stem in PICTURE else []
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *COMMANDS.get(path.stem, []), str(path), *own],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if path.stem in PICTURE:
        assert said_to_print(path) in done.stdout
    else:
        assert done.stdout.rstrip("\n") == said_to_print(path)
