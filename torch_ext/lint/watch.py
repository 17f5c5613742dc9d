# SPDX-License-Identifier: BSD-3-Clause
"""Looking on while programs run."""

import threading
import warnings
from typing import Any

from . import patching
from .finding import Finding, FunctionWarning, check_kinds, is_allowed

# The watches that warn, so that no place is warned of twice.
_warning: list["Watch"] = []
_lock = threading.RLock()


class Watch:
    """Looks on while programs run; what :func:`watch` returns.

    A context manager, and ``start()`` and ``stop()``. Can be used again after it
    has ended; the findings stay.

    Args:
        ignore: as :func:`watch` takes it.
        only: the one class to look at; None for all.

    Attributes:
        findings: what was found so far, once per kind and place, in the order in which it was seen.
    """

    def __init__(self, ignore: tuple[str, ...] = (), only: type | None = None) -> None:
        check_kinds(ignore)
        self.findings: list[Finding] = []
        self._ignore = ignore
        self._only = only
        self._seen: set[tuple[str, str, str, int]] = set()
        self._running = False
        self._report = self._note  # one object, by which patching knows it

    def start(self) -> "Watch":
        """Begins to look on, on all threads.

        Returns:
            Itself.

        Raises:
            RuntimeError: it looks on already.
        """
        with _lock:
            if self._running:
                raise RuntimeError("this watch looks on already: take another watch(), or stop() it first")
            self._running = True
            if self._only is None:
                _warning.append(self)
            patching.begin(self._report)
        return self

    def stop(self) -> None:
        """Looks on no longer. Does nothing if it doesn't."""
        with _lock:
            if self._running:
                self._running = False
                if self in _warning:
                    _warning.remove(self)
                patching.end(self._report)

    def __enter__(self) -> "Watch":
        return self.start()

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def _note(self, cls: type, finding: Finding) -> None:
        if finding.kind in self._ignore or (self._only is not None and cls is not self._only):
            return
        key = (finding.kind, finding.function, finding.file, finding.line)
        with _lock:
            if key in self._seen:
                return
            is_known = any(key in each._seen for each in _warning)
            self._seen.add(key)
            if is_allowed(finding):
                return
            self.findings.append(finding)
        if self._only is None and not is_known:
            warnings.warn_explicit(FunctionWarning(str(finding)), None, finding.file or "<unknown>", finding.line)


def watch(*, ignore: tuple[str, ...] = ()) -> Watch:
    """Looks on while programs run, and warns of mistakes in their custom Functions.

    Sees the Functions of torch and of torch_ext, whether it is installed or not,
    on all threads, and changes no result. It steps aside in ``torch.compile``,
    ``torch.func`` transforms, tracing, and under a dispatch mode; compiled code
    compiles anew for the methods that it wraps. Warns once per kind and place with
    a :class:`FunctionWarning`. A comment ``# torch_ext: allow=kept-input`` in the
    line says that it is meant.

    Args:
        ignore: kinds of findings to leave out, of :data:`torch_ext.lint.KINDS`.

    Returns:
        A context manager that also has ``start()`` and ``stop()``; its
        ``findings`` is the list of what was found.

    Raises:
        ValueError: ``ignore`` has a kind that there isn't.
    """
    return Watch(tuple(ignore))
