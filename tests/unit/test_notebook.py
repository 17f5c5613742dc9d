# SPDX-License-Identifier: BSD-3-Clause
"""%load_ext torch_ext: the magics, and what becomes of a cell that fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

DEFINE = """
import torch
class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x
    @staticmethod
    def backward(ctx, grad):
        return 2 * grad
x = torch.ones(2, requires_grad=True)
"""

SHOW = "print(isinstance(Double.apply(x).grad_fn, torch_ext._C.Ctx))"

# (cell, what it prints, the exception that ends it)
CELLS = [
    ("%load_ext torch_ext", "", ""),
    (f"import torch_ext{DEFINE}", "", ""),
    ("%torch_ext", "Functions run on stock torch.\n", ""),
    (SHOW, "False\n", ""),
    (f"%%torch_ext\n{SHOW}\nkept = 7", "True\n", ""),
    ("print(kept)", "7\n", ""),
    (SHOW, "False\n", ""),
    ("%%torch_ext\n1 / 0", "division by zero", "_CellFailed"),
    ("%%torch_ext\n1 +", "invalid syntax", "_CellFailed"),
    (SHOW, "False\n", ""),
    ("%torch_ext on", "", ""),
    ("%torch_ext", "Functions run on torch_ext.\n", ""),
    (SHOW, "True\n", ""),
    ("%%torch_ext\nkept = 8", "", ""),
    (SHOW, "True\n", ""),
    ("%torch_ext off", "", ""),
    (SHOW, "False\n", ""),
    ("%%torch_ext --report\nDouble.apply(x).sum().backward()", "1 custom Function in ", ""),
    ("%%torch_ext\nimport asyncio\nawait asyncio.sleep(0)\nprint('waited')", "waited\n", ""),
    ("%torch_ext maybe", "%torch_ext takes on or off, got 'maybe'", "UsageError"),
    ("%%torch_ext now\n1", "%%torch_ext takes --report or nothing, got 'now'", "UsageError"),
    ("%torch_ext on\n%reload_ext torch_ext\n%torch_ext", "Functions run on stock torch.\n", ""),
    ("%torch_ext on\n%unload_ext torch_ext\nprint(torch_ext.is_installed())", "False\n", ""),
    ("%torch_ext", "not found", "UsageError"),
]

RUN = """
import contextlib, io, json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell("%colors nocolor")
rows = []
for cell in json.load(sys.stdin):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        done = shell.run_cell(cell)
    error = done.error_before_exec or done.error_in_exec
    rows.append([printed.getvalue(), type(error).__name__ if error else ""])
print("ROWS" + json.dumps(rows))
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """What each cell printed, and its exception, in one shell."""
    home = tmp_path_factory.mktemp("ipython")
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps([cell for cell, *_ in CELLS]),
        env={**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.partition("ROWS")[2])


@pytest.mark.parametrize("number", range(len(CELLS)), ids=[cell.replace("\n", " ; ")[:40] for cell, *_ in CELLS])
def test_cells(rows, number):
    _, printed, error = CELLS[number]
    assert rows[number][1] == error
    assert printed in rows[number][0]
    assert printed or not rows[number][0]


def test_a_cell_shows_its_error_once(rows):
    (shown,) = [printed for (cell, *_), (printed, _) in zip(CELLS, rows, strict=True) if cell.endswith("1 / 0")]
    assert shown.count("ZeroDivisionError: division by zero") == 1
    assert "torch_ext_cli" not in shown


def test_a_running_loop_refuses_await(monkeypatch):
    from IPython.core.error import UsageError

    from torch_ext_cli import notebook

    class Shell:
        transform_cell = staticmethod(str)
        should_run_async = staticmethod(lambda cell, **_: "await" in cell)

    magics = notebook.TorchExtMagics.__new__(notebook.TorchExtMagics)
    monkeypatch.setattr(notebook.TorchExtMagics, "shell", Shell(), raising=False)
    monkeypatch.setattr(notebook, "_has_running_loop", lambda: True)
    with pytest.raises(UsageError, match="can't run a cell with await"):
        magics._run("", "await f()")
