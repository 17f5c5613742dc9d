# SPDX-License-Identifier: BSD-3-Clause
"""`torch-ext` itself: which commands there are, their help, and wrong calls of any of them."""

import subprocess
import sys

import pytest
from typer.main import get_command

import torch_ext_cli
from torch_ext_cli.app import app

COMMANDS = sorted(get_command(app).commands)


@pytest.fixture
def call(monkeypatch, capsys):
    """Calls torch-ext in this process. Returns the status, what it printed, and what it said on stderr."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["torch-ext", *args])
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as end:
            torch_ext_cli.main()
        return end.value.code, *capsys.readouterr()

    return run


def test_commands():
    assert COMMANDS == ["bench", "build", "check", "clean", "demo", "disable", "doctor", "enable", "run"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_fits_a_terminal(command, call):
    status, out, err = call(command, "--help")
    assert (status, err) == (0, "")
    assert out.count(f"torch-ext {command}") >= 2  # the usage, and the example
    assert max(map(len, out.splitlines())) <= 80


WRONG = [
    ((), "frobnicate", "torch-ext: No such command 'frobnicate' (see torch-ext --help)\n"),
    *(
        (
            (command,),
            "--nonsense",
            f"torch-ext {command}: No such option: --nonsense (see torch-ext {command} --help)\n",
        )
        for command in COMMANDS
        if command not in ("demo", "run")  # which tell it in their own words: test_demo.py, test_run.py
    ),
    ((), "check", "torch-ext check: Missing argument 'CLASS' (see torch-ext check --help)\n"),
    ((), "bench", "torch-ext bench: Missing argument 'CLASS' (see torch-ext bench --help)\n"),
]


@pytest.mark.parametrize("command, wrong, said", WRONG, ids=lambda value: str(value)[:20])
def test_a_wrong_call_is_told_in_one_line(command, wrong, said, call):
    status, printed, errors = call(*command, wrong)
    # Typer before 0.25 has click's words.
    assert (status, printed, errors.replace("option '--nonsense'", "option: --nonsense")) == (2, "", said)


def test_without_a_command_it_shows_the_help(call):
    status, out, err = call()
    assert (status, err) == (2, "")
    assert all(command in out for command in COMMANDS)


def test_it_answers_without_torch():
    code = """
import sys, torch_ext_cli
sys.argv = ["torch-ext", "--help"]
try:
    torch_ext_cli.main()
finally:
    print({"torch", "torch_ext"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.endswith("set()\n")


def test_what_it_needs_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch_ext_cli.app")
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as end:
        torch_ext_cli.main()
    assert end.value.code.endswith("pip install 'torch_ext[cli]'")
    assert "typer" in end.value.code
