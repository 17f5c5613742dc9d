# SPDX-License-Identifier: BSD-3-Clause
"""What ``%load_ext torch_ext`` adds to IPython and Jupyter: ``%torch_ext on``, ``off``, and ``%%torch_ext``."""

import asyncio
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class


class _CellFailed(Exception):
    """The cell has failed, and IPython has shown why."""

    def _render_traceback_(self) -> list[str]:
        return []


@magics_class
class TorchExtMagics(Magics):
    """The magics of an interactive shell."""

    @line_cell_magic
    def torch_ext(self, line: str, cell: str | None = None) -> None:
        """Run Functions on torch_ext: from now on, or in one cell.

        %torch_ext on       all Functions of this process run on torch_ext from now on
        %torch_ext off      they run on stock torch again
        %torch_ext          says which it is
        %%torch_ext         they run on torch_ext in this cell
        %%torch_ext --report    the same, and the table of those that ran
        """
        import torch_ext

        if cell is not None:
            self._run(line.strip(), cell)
            return
        state = line.strip()
        if state not in ("on", "off", ""):
            raise UsageError(f"%torch_ext takes on or off, got {state!r}")
        if state == "on":
            torch_ext.install()
        elif state == "off":
            torch_ext.uninstall()
        else:
            print(f"Functions run on {'torch_ext' if torch_ext.is_installed() else 'stock torch'}.")

    def _run(self, option: str, cell: str) -> None:
        import torch_ext

        if option not in ("--report", ""):
            raise UsageError(f"%%torch_ext takes --report or nothing, got {option!r}")
        shell: Any = self.shell
        if _awaits(shell, cell) and _has_running_loop():
            raise UsageError("%%torch_ext can't run a cell with await: use %torch_ext on before it, and off after it")
        with torch_ext.installed():
            if option:
                with torch_ext.profile.record() as recorded:
                    result = shell.run_cell(cell)
                print(recorded)
            else:
                result = shell.run_cell(cell)
        if not result.success:
            raise _CellFailed


def _awaits(shell: Any, cell: str) -> bool:
    try:
        code = shell.transform_cell(cell)
    except SyntaxError:  # which run_cell() shows
        return False
    return bool(shell.should_run_async(cell, transformed_cell=code))


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def load(shell: Any) -> None:
    """Adds the magics to an interactive shell."""
    shell.register_magics(TorchExtMagics)


def unload(shell: Any) -> None:
    """Takes the magics away; Functions run on stock torch again."""
    import torch_ext

    torch_ext.uninstall()
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("torch_ext", None)
