# SPDX-License-Identifier: BSD-3-Clause
"""How a program that knows nothing of torch_ext comes to run on it: Python's start-up leads here.

==================  ==============================================================
``pth``             the line that ``torch-ext enable`` writes; it calls :func:`begin`
``sitecustomize``   what ``torch-ext run`` has Python find; it calls :func:`begin` too
``import_hook``     puts torch_ext in place as soon as the program has imported torch
==================  ==============================================================

It runs at the start of each Python, so it imports nothing before it has to.
"""

import os
import sys

#: Whether programs run on torch_ext: "1", or "strict" if they are not to run without.
VARIABLE = "TORCH_EXT"
#: What ``torch-ext run`` was asked for, as running.Options has it; only there if it was.
RUN_VARIABLE = "TORCH_EXT_RUN"
#: There if the Python processes that the program starts are not to run on torch_ext.
ALONE_VARIABLE = "TORCH_EXT_ALONE"

_OFF = ("", "0")
_ON = ("1", "strict")
_begun = False


def begin(root: str | None = None) -> None:
    """Has torch_ext put in place once this process has imported torch, if the environment asks for it.

    Args:
        root: the folder that has torch_ext, for a Python that doesn't find it by itself.
    """
    global _begun
    asked = os.environ.get(VARIABLE, "")
    if asked in _OFF or _begun:
        return
    _begun = True
    if asked not in _ON:
        _say(f"{VARIABLE} is {' or '.join(_ON)}, got {asked!r}: the program runs on stock torch")
        return
    for_run = os.environ.get(RUN_VARIABLE)
    if ALONE_VARIABLE in os.environ:
        _forget()
    from . import import_hook

    import_hook.begin(lambda: _put_in_place(asked == "strict", for_run), root)


def end() -> None:
    """Takes back what :func:`begin` did, for a process that decides by itself. What is in place stays."""
    if _begun:
        from . import import_hook

        import_hook.end()


def folder() -> str:
    """The folder by which Python finds what is here as it starts."""
    return os.path.dirname(os.path.abspath(__file__))


def _forget() -> None:
    """Takes out of the environment what ``torch-ext run`` has put there."""
    for name in (VARIABLE, RUN_VARIABLE, ALONE_VARIABLE):
        os.environ.pop(name, None)
    first, separator, others = os.environ.get("PYTHONPATH", "").partition(os.pathsep)
    if first == folder():
        del os.environ["PYTHONPATH"]
        if separator:
            os.environ["PYTHONPATH"] = others


def _put_in_place(strict: bool, for_run: str | None) -> None:
    """Called as soon as torch is imported."""
    try:
        import torch_ext

        torch_ext.install()
    except Exception as error:
        problem = f"torch_ext can't be used: {type(error).__name__}: {' '.join(str(error).split())}"
        if for_run is not None:
            # No error that the program may take for one of its own, and catch.
            raise SystemExit(f"torch-ext run: {problem}") from None
        if strict:
            raise ImportError(f"{VARIABLE}=strict, and {problem}") from error
        _say(f"the program goes on, on stock torch: {problem}")
        return
    if for_run is not None:
        from ..running import program

        program.begin(for_run)


def _say(text: str) -> None:
    if sys.stderr is not None:  # without a console there is none
        sys.stderr.write(f"torch_ext: {text}\n")
