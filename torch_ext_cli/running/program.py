# SPDX-License-Identifier: BSD-3-Clause
"""What ``torch-ext run`` does inside the program: it begins once torch is imported, and ends as the program ends."""

import atexit
import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from .options import Options, from_text

# The ends that Python's own code doesn't see, and that may come to any program.
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_CHECKS: dict[str, bool | str] = {"nan": True, "forward": "forward", "deferred": "deferred", "notes": False}


def begin(text: str) -> None:
    """Begins what the options, as a text, ask for."""
    options = from_text(text)
    if options.anomaly:
        import torch_ext

        torch_ext.set_detect_anomaly(True, _CHECKS[options.anomaly])
    if options.profile or options.strict or options.compare:
        _Watching(options).begin()


class _Watching:
    """What looks on in this process, and says at the end what it has seen."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._record: Any = None
        self._watch: Any = None
        self._comparison: Any = None
        self._is_over = False

    def begin(self) -> None:
        self._start()
        atexit.register(self.end)
        # Without a handler no code of Python's would run. One that the program sets replaces it.
        for number in _SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:
                with contextlib.suppress(ValueError):  # torch was imported on another thread
                    signal.signal(number, self._end_by_signal)
        os.register_at_fork(after_in_child=self._start_anew)
        _hold_signals_back_while_forking()
        from multiprocessing import parent_process, util

        # Processes of multiprocessing end without atexit, and with what is registered there.
        util.register_after_fork(self, _Watching._end_with_process)
        if parent_process() is not None:
            self._end_with_process()

    def _start(self) -> None:
        import torch_ext

        self._is_over = False
        if self._options.compare:
            self._comparison = torch_ext.compare.watch(calls=self._options.compare)
            self._comparison.__enter__()
        if self._options.strict:
            self._watch = torch_ext.lint.watch().start()
        if self._options.profile:
            self._record = torch_ext.profile.record().start()

    def _stop(self) -> None:
        # The record last: what it measures then nobody is to look at.
        if self._watch is not None:
            self._watch.stop()
        if self._comparison is not None:
            self._comparison.__exit__(None, None, None)
        if self._record is not None:
            self._record.stop()

    def _start_anew(self) -> None:
        """In the child of a fork, whose parent has seen what was seen so far."""
        if not self._is_over:
            if self._record is not None:
                self._record.start_anew()
            if self._watch is not None:
                self._watch.findings.clear()

    def _end_with_process(self) -> None:
        from multiprocessing import util

        util.Finalize(self, self.end, exitpriority=-1000)

    def _end_by_signal(self, number: int, frame: FrameType | None) -> None:
        self.end()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def end(self) -> None:
        """Says what was seen, once."""
        if self._is_over:
            return
        self._is_over = True
        self._stop()
        failed = [self._say_report(), self._say_advice(), self._say_differences()]
        if any(failed) and not self._options.is_child:
            import torch_ext

            torch_ext._C.fail_at_exit(1)
        if getattr(sys, "last_type", None) is KeyboardInterrupt:
            # Python ends by the signal if the last text that was executed was interrupted, and we have executed some.
            with contextlib.suppress(KeyboardInterrupt):
                exec("raise KeyboardInterrupt")

    # Each says whether the process is to fail for it.

    def _say_report(self) -> bool:
        report = None if self._record is None else self._record.report
        if report is None or (self._options.is_child and not report.functions):
            return False
        if self._options.report:
            from torch_ext.profile import table

            with _readers_may_be_gone():
                sys.stderr.write("\n")
                table.print_to(sys.stderr, report)
        for name, write in (
            (self._options.html, report.to_html),
            (self._options.json, lambda path: path.write_text(report.to_json() + "\n")),
        ):
            if name:
                path = self._own(Path(name))
                try:
                    write(path)
                except OSError as error:
                    _say(f"{path} can't be written: {error.strerror}")
        return False

    def _say_advice(self) -> bool:
        if self._watch is None or (self._options.is_child and not self._watch.findings):
            return False
        from torch_ext.graph import text

        findings = self._watch.findings
        functions = text.plural(len({each.function for each in findings}), "custom Function")
        found = f"{text.plural(len(findings), 'mistake')} in {functions}" if findings else "no mistake"
        _say(f"--strict has found {found}{self._of_child()}")
        return bool(findings) and self._options.strict == "error"

    def _say_differences(self) -> bool:
        if self._comparison is None or (self._options.is_child and not self._comparison.differences):
            return False
        _say(f"--compare with stock torch{self._of_child()}:\n{self._comparison.report().rstrip()}")
        return bool(self._comparison.differences)

    def _of_child(self) -> str:
        return f" in process {os.getpid()}" if self._options.is_child else ""

    def _own(self, path: Path) -> Path:
        """Where this process writes: the ranks of torchrun and the children of the program have a name each."""
        rank = os.environ.get("RANK", "") if os.environ.get("WORLD_SIZE", "1") != "1" else ""
        parts = [f"rank{rank}" if rank else "", str(os.getpid()) if self._options.is_child else ""]
        return path.with_name(".".join([path.stem, *filter(None, parts)]) + path.suffix)


def _hold_signals_back_while_forking() -> None:
    """Keeps a signal that comes to a child at once: Python forgets those with a handler while it makes the child."""
    local = threading.local()

    def hold_back() -> None:
        local.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def let_through() -> None:
        mask = local.__dict__.pop("mask", None)  # none if another thread forks just now
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    os.register_at_fork(before=hold_back, after_in_parent=let_through, after_in_child=let_through)


def _say(text: str) -> None:
    with _readers_may_be_gone():
        sys.stderr.write(f"torch-ext run: {text}\n")
        sys.stderr.flush()


def _readers_may_be_gone() -> contextlib.suppress:
    """For writing to stderr, which may be closed at either end, or be None."""
    return contextlib.suppress(AttributeError, OSError, ValueError)
