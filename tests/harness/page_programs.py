# SPDX-License-Identifier: BSD-3-Clause
"""The programs that a page of the documentation shows, each with what it says they print.

A program is a block of Python that a block of text follows. They run in forks of one process, which has loaded torch.
"""

import multiprocessing
import re
import runpy
import subprocess
import sys
import traceback
from pathlib import Path

PROGRAM = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def programs_of(page):
    """The programs of the text of a page, and what each is said to print."""
    return PROGRAM.findall(page)


def printed_by(programs, folder):
    """What each program prints, errors included; ``folder`` is for their files."""
    paths = [folder / str(number) / "program.py" for number in range(len(programs))]
    for path, program in zip(paths, programs, strict=True):
        path.parent.mkdir()
        path.write_text(program)
    command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), *map(str, paths)]
    subprocess.run(command, check=True, cwd=folder)
    return [path.with_suffix(".txt").read_text() for path in paths]


def run(path):
    with open(path.with_suffix(".txt"), "w") as sys.stdout:
        try:
            runpy.run_path(str(path), run_name="__main__")
        except BaseException:
            traceback.print_exc(file=sys.stdout)


def main(paths):
    import torch

    import torch_ext

    torch_ext.load()
    torch.set_num_threads(1)
    for path in map(Path, paths):
        process = multiprocessing.get_context("fork").Process(target=run, args=(path,))
        process.start()
        process.join()


if __name__ == "__main__":
    main(sys.argv[1:])
