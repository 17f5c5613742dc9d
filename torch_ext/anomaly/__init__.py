# SPDX-License-Identifier: BSD-3-Clause
"""Anomaly mode that captures the stack as it is, and turns it into text when somebody reads it.

Each node of the graph, torch's own included, remembers where forward created it, at a
fraction of what torch's mode costs, and there is a report on a backward that fails.
"""

import importlib
import threading
import warnings
from typing import TYPE_CHECKING, Any

import torch

from .. import _C, _compat

# C++ needs the second whenever somebody reads a stack, so it is loaded before.
from . import regions, traceback  # noqa: F401

if TYPE_CHECKING:
    from .report import last_report

__all__ = ["detect_anomaly", "last_report", "set_detect_anomaly"]

# What reports are made by: half of the import, and most programs need none. C++ calls `failures` in the middle of a
# failure, where an import could fail too, so it is loaded before: by Settings, and by the reporting engine as a
# backward begins in torch's own mode.
_LOADED_LATER = frozenset(
    "behind birth changes cuts facts failures freed given graph picture places report rules values".split()
)


def __getattr__(name: str) -> Any:
    if name == "last_report":
        return importlib.import_module(".report", __name__).last_report
    if name in _LOADED_LATER:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_LOADED_LATER})


class _Engines:
    """torch's engine, and ours, which takes its place. If somebody else's is there, it is left alone."""

    def __init__(self) -> None:
        self.torchs = _compat.torchs_engine()
        self.ours = _C.make_reporting_engine(self.torchs)

    def exchange(self, on: bool) -> None:
        there = _compat.get_engine()
        if on and _compat.is_torchs_engine(there):
            _compat.set_engine(self.ours)
            self.torchs = there
        elif not on and there is self.ours:
            _compat.set_engine(self.torchs)


class _Switch:
    """Whether nodes get our metadata: for as long as install() or a context asks."""

    def __init__(self) -> None:
        self.installed = False
        self.mode = False

    def set(self, *, installed: bool | None = None, mode: bool | None = None) -> None:
        with _lock:
            installed = self.installed if installed is None else installed
            mode = self.mode if mode is None else mode
            on = installed or mode
            before = _C.use_our_anomaly_metadata(on)
            try:
                _engines.exchange(on)
                _compat.hide_key()
            except BaseException:
                _C.use_our_anomaly_metadata(before)
                raise
            self.installed, self.mode = installed, mode


# Kept if this module is reloaded, or removed and imported again: it finds ours in the place of torch's then.
_lock: threading.RLock = _C.kept.setdefault("anomaly lock", threading.RLock())
_engines: _Engines = _C.kept.setdefault("engines", _Engines())
_switch: _Switch = _C.kept.setdefault("switch", _Switch())


def follow_install(installed: bool) -> bool:
    """Called by install() and uninstall(), not by users. Returns what held before."""
    before = follows_install()
    _switch.set(installed=installed)
    return before


def follows_install() -> bool:
    """Whether install() was called, and its work not taken back."""
    return bool(_switch.installed)


def is_noting() -> bool:
    """Whether nodes that are made now note where, if anomaly mode is on."""
    return bool(_switch.installed or _switch.mode)


def foreign_engine() -> object:
    """What is called in the place of torch's engine and is not torch_ext's; None if nothing is."""
    there = _compat.get_engine()
    return None if there is _engines.ours or _compat.is_torchs_engine(there) else there


class Checks:
    """What is checked, as :class:`detect_anomaly` takes it. Not for users.

    Raises:
        ValueError: ``check_every`` doesn't fit.
    """

    # By hand, since a dataclass would be most of what importing this module takes.
    def __init__(
        self,
        check_nan: bool | str = True,
        check_loss: bool = False,
        check_inf: bool = False,
        check_saved: bool = False,
        check_every: int | None = None,
    ) -> None:
        if check_every is not None and (check_nan != "deferred" or check_every < 1):
            raise ValueError(f"check_every is for check_nan='deferred' and at least 1, got {check_every!r}")
        self.check_nan = check_nan
        self.check_loss = check_loss
        self.check_inf = check_inf
        self.check_saved = check_saved
        self.check_every = check_every

    @property
    def by_torch(self) -> bool:
        """Whether torch's engine checks each gradient."""
        # Another text is torch's to refuse.
        return self.check_nan == "forward" if self.check_nan in _WAYS else self.check_nan  # type: ignore[return-value]

    def ours(self, mode: bool) -> tuple[bool, bool, bool, bool, int]:
        """The arguments of :func:`torch_ext._C.set_anomaly_checks`."""
        on = bool(mode)
        every = (self.check_every or 0) if self.check_nan == "deferred" else -1
        return self.check_loss, self.check_inf, on and self.check_nan == "forward", on and self.check_saved, every


_WAYS = ("forward", "deferred")


class Settings:
    """What a context changes, as it was before it. Not for users.

    Args:
        mode, checks: as in :class:`detect_anomaly`.
        quiet: whether a failing backward prints nothing.
        operators: whether operators that change tensors, or in which values leave the graph, are noted.
        follow: whether what is computed from such values is followed, on this thread.
    """

    def __init__(
        self,
        mode: bool,
        checks: Checks,
        *,
        quiet: bool = False,
        operators: bool = True,
        follow: bool = False,
    ) -> None:
        if mode:
            importlib.import_module(".failures", __name__)
        self.mode = torch.is_anomaly_enabled()
        self.check_nan = torch.is_anomaly_check_nan_enabled()
        self.switch = _switch.mode
        self.checks = _C.set_anomaly_checks(*checks.ours(mode))
        self.only_notes = _C.note_only(quiet)
        # Guards of compiled code look at what is observed, and it would be compiled anew.
        self.looks = bool(mode) and operators and (quiet or not _compat.has_compiled())
        self.looked = _C.observe_operators(self.looks)
        regions.watch(self.looks)
        self.follows = follow
        if follow:
            _C.follow_operators(True)
        try:
            torch.set_anomaly_enabled(mode, checks.by_torch)
            _switch.set(mode=bool(mode))
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        torch.set_anomaly_enabled(self.mode, self.check_nan)
        self.restore_ours()

    def restore_ours(self) -> None:
        try:
            _switch.set(mode=self.switch)
        finally:
            _C.set_anomaly_checks(*self.checks)
            _C.note_only(self.only_notes)
            _C.observe_operators(self.looked)
            regions.watch_no_longer(self.looks)
            if self.follows:
                _C.follow_operators(False)


class set_detect_anomaly:
    """Turns anomaly mode on or off, as :class:`torch.autograd.set_detect_anomaly` does.

    Acts at once, when it is created; as a context manager it also takes that back at the end.
    The mode is the whole process's.

    Args:
        mode: on or off.
        check_nan, check_loss, check_inf, check_saved, check_every: as in :class:`detect_anomaly`.

    Raises:
        ValueError: ``check_every`` doesn't fit.
    """

    def __init__(
        self,
        mode: bool,
        check_nan: bool | str = True,
        *,
        check_loss: bool = False,
        check_inf: bool = False,
        check_saved: bool = False,
        check_every: int | None = None,
    ) -> None:
        self._before = Settings(mode, Checks(check_nan, check_loss, check_inf, check_saved, check_every))
        self.prev = self._before.mode
        self.prev_check_nan = self._before.check_nan

    def __enter__(self) -> None:
        pass

    def __exit__(self, *args: object) -> None:
        self._before.restore()


class detect_anomaly:
    """A context with anomaly mode on, as :class:`torch.autograd.detect_anomaly` is.

    A backward that raises prints the traceback of the forward call that made the
    failing node, and its exception carries it: as notes (``__notes__``), and as data
    by :func:`last_report`.

    Args:
        check_nan: whether a backward that gives NaN raises an error. With ``"forward"`` an operator or a Function does
            so, too, when it returns NaN in a tensor that has a ``grad_fn``: masks and other data are not minded.
            With ``"deferred"`` nothing waits for a GPU at each node: all of a backward that Python code calls is looked
            at at its end, so that gradients are accumulated by then, and what nodes have saved is kept until then.
        check_loss: whether backward raises one at once, before a node runs, if what it is called on is NaN, or the
            gradient that it is called with.
        check_inf: whether a backward that gives infinite values raises an error too, and gradients that become
            infinite or NaN as they are added, by the engine or to a leaf's ``grad``. ``check_loss`` then minds
            infinities too, as the check in forward does. It is made of backwards that Python code calls.
        check_saved: whether a node raises an error, before it runs in a backward that Python code calls, if the values
            of what it has saved have changed though no operator in place has: through ``.data``, numpy, DLPack or a
            pointer. What nodes made in the mode save is read once then, and once before they run.
        check_every: with ``check_nan="deferred"``, after how many nodes it looks, and lets go of what it keeps; None
            for the end alone. The error is raised at the end in any case.

    Raises:
        ValueError: ``check_every`` doesn't fit.
    """

    def __init__(
        self,
        check_nan: bool | str = True,
        *,
        check_loss: bool = False,
        check_inf: bool = False,
        check_saved: bool = False,
        check_every: int | None = None,
    ) -> None:
        self.prev = torch.is_anomaly_enabled()
        self.check_nan = check_nan
        self.prev_check_nan = torch.is_anomaly_check_nan_enabled()
        self._checks = Checks(check_nan, check_loss, check_inf, check_saved, check_every)
        self._before: Settings | None = None
        warnings.warn(
            "Anomaly Detection has been enabled. "
            "This mode will increase the runtime "
            "and should only be enabled for debugging.",
            stacklevel=2,
        )

    def __enter__(self) -> None:
        self._before = Settings(True, self._checks)

    def __exit__(self, *args: object) -> None:
        # As torch's: what held when this object was created.
        torch.set_anomaly_enabled(self.prev, self.prev_check_nan)
        if self._before is not None:
            self._before.restore_ours()
