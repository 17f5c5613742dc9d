# SPDX-License-Identifier: BSD-3-Clause
"""Becoming the Python that runs the program.

The program is not run inside this process: Python has too many ways to show whose it is. This process is replaced, and
keeps its number, by `python PROGRAM`, as one types it, whose environment has the drop-in put in place.
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import startup
from ..startup import pth
from .options import Options


class CannotRun(Exception):
    """Python would not put the drop-in in place."""


def launch(program: Sequence[str], options: Options, children: bool = True) -> NoReturn:
    """Runs ``python PROGRAM`` in the place of this process.

    Args:
        program: what Python's command line is to have: a script and its arguments, "-m" and a module and its ...
        options: what to do in the program.
        children: whether the Python processes that the program starts run on torch_ext too.

    Raises:
        CannotRun: this Python reads nothing that would put the drop-in in place.
    """
    own = dataclasses.replace(options, process=os.getpid()).to_text()
    environment = {**os.environ, startup.VARIABLE: "1", startup.RUN_VARIABLE: own}
    if not children:
        environment[startup.ALONE_VARIABLE] = "1"
    if sys.flags.no_site or (sys.flags.ignore_environment and pth.find() is None):
        raise CannotRun(
            "Python's options -I, -E and -S keep it from putting torch_ext in place: leave them out"
            + ("" if sys.flags.no_site else ", or type torch-ext enable first")
        )
    if not sys.flags.ignore_environment:
        before = os.environ.get("PYTHONPATH")
        if before is None or before.partition(os.pathsep)[0] != startup.folder():  # the program may be run by run
            environment["PYTHONPATH"] = os.pathsep.join([startup.folder(), *([] if before is None else [before])])
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *_options_of_python(), *program], environment)


def _options_of_python() -> list[str]:
    """Those that this Python was started with: -O, -W, -X and the like."""
    if sys.orig_argv[len(sys.orig_argv) - len(sys.argv) + 1 :] != sys.argv[1:]:
        return []  # somebody has called main() with arguments of his own
    *options, own = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    if getattr(sys.modules["__main__"], "__spec__", None) is None:
        return options
    # By -m: "-m torch_ext", "-Bm torch_ext", "-mtorch_ext".
    last = options.pop() if options and not own.startswith("-") else own
    letters = last.partition("m")[0]
    return options if letters == "-" else [*options, letters]
