# SPDX-License-Identifier: BSD-3-Clause
"""A program that looks at how it is run, and prints it: test_run.py compares what it prints under python."""

import os
import pickle
import signal
import sys
import threading

import __main__


class OfMain:
    """To be pickled."""


def probe():
    print("argv", sys.argv[1:], sys.orig_argv[1:])
    print("path", sys.path)
    print("flags", sys.flags, sys.warnoptions, sys._xoptions)
    main = sys.modules["__main__"]
    print("main", main is __main__, __name__, main.__dict__ is globals(), sorted(vars(main)))
    print("names", __file__, __spec__ and __spec__.name, __package__, type(__loader__).__name__, __builtins__)
    print("pickle", pickle.dumps(OfMain()))
    caller = sys._getframe(1).f_back
    print("frame", caller and caller.f_code.co_filename, sys.gettrace(), sys.getprofile())
    print(
        "threads", threading.current_thread().name, threading.active_count(), os.getpid() == threading.get_native_id()
    )
    print("signals", [signal.getsignal(each) for each in signal.valid_signals()], signal.pthread_sigmask(0, []))
    print("hooks", sys.excepthook, sys.displayhook, sys.unraisablehook, sys.breakpointhook)
    print("limits", sys.getrecursionlimit(), sys.stdout.line_buffering, sys.stdin.isatty(), os.get_inheritable(1))
    print("sitecustomize" in sys.modules, "typer" in sys.modules, "rich" in sys.modules)


if __name__ == "__main__":
    probe()
