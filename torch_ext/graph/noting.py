# SPDX-License-Identifier: BSD-3-Clause
"""Notes alone: where each node of the graph was made, without checks and without prints."""

import torch

from .. import anomaly


class noting:
    """A context in which each node of the graph, torch's own included, notes where it is made.

    It is anomaly mode (``torch.is_anomaly_enabled()``) without its checks, and a failing backward prints nothing. Its
    exception has the same notes, and there is the same :func:`torch_ext.anomaly.last_report`. Inside anomaly mode it
    changes nothing. It holds for the whole process. :func:`set_noting` does the same without a context.

    Args:
        operators: whether to note also which operators change tensors in place, and in which values leave the graph,
            on this thread: as anomaly mode does.
        follow: whether to follow, on this thread, what is computed from values that have left the graph. It looks at
            each operator, which costs several times as much as all else.
    """

    def __init__(self, operators: bool = False, *, follow: bool = False) -> None:
        self._wishes = operators or follow, follow
        self._before: list[anomaly.Settings | None] = []

    def __enter__(self) -> None:
        inside = torch.is_anomaly_enabled() and anomaly.is_noting()
        self._before.append(None if inside else _begin(*self._wishes))

    def __exit__(self, *args: object) -> None:
        before = self._before.pop()
        if before is not None:
            before.restore()


def set_noting(on: bool, *, operators: bool = False, follow: bool = False) -> None:
    """Lets each node note where it is made from now on, or no longer: see :class:`noting`.

    Args:
        on: on or off.
        operators: as in :class:`noting`.
        follow: as in :class:`noting`.
    """
    global _lasting
    if _lasting is not None:
        _lasting.restore()
        _lasting = None
    if on:
        _lasting = _begin(operators or follow, follow)


_lasting: anomaly.Settings | None = None


def _begin(operators: bool, follow: bool) -> anomaly.Settings:
    return anomaly.Settings(True, anomaly.Checks(False), quiet=True, operators=operators, follow=follow)
