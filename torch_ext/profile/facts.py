# SPDX-License-Identifier: BSD-3-Clause
"""What is reported of the Functions that ran."""

import dataclasses
import json
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Times:
    """The calls of forward, or of backward, of one Function; all times in seconds.

    Args:
        calls: how many there were.
        total: how long they took.
        user: how much of that was the user's own code.
        median: how long a call took.
        overhead: how long a call took besides the user's code, a median.
        quantiles: how long a call took at most, of 5, 25, 50, 75 and 95 % of them.
        stock_extra: how much longer they would have taken on stock torch; None if that wasn't measured.
    """

    calls: int
    total: float
    user: float
    median: float
    overhead: float
    quantiles: tuple[float, ...]
    stock_extra: float | None

    @property
    def overhead_total(self) -> float:
        """How long all calls took besides the user's code."""
        return self.total - self.user

    @property
    def stock_overhead(self) -> float | None:
        """How long a call would have taken on stock torch besides the user's code."""
        return None if self.stock_extra is None else self.overhead + self.stock_extra / max(self.calls, 1)


@dataclass(frozen=True)
class FunctionTimes:
    """One Function.

    Args:
        name: its qualified name.
        module: the module that it is defined in.
        file, line: where its forward is; line 0 if that isn't known.
        forward, backward: their calls.
        recorded: how many of the calls of forward have made a node.
        saved: bytes of the tensors that were given to save_for_backward, of all calls.
    """

    name: str
    module: str
    file: str
    line: int
    forward: Times
    backward: Times
    recorded: int
    saved: int

    @property
    def total(self) -> float:
        """Seconds that forward and backward took."""
        return self.forward.total + self.backward.total

    @property
    def overhead(self) -> float:
        """Seconds of it that were not the user's code."""
        return self.forward.overhead_total + self.backward.overhead_total

    @property
    def stock_extra(self) -> float | None:
        """How many more seconds it would have been on stock torch; None if that wasn't measured."""
        parts = [each.stock_extra for each in (self.forward, self.backward) if each.calls]
        return None if None in parts else sum(each for each in parts if each is not None)

    @property
    def place(self) -> str:
        """Where it is, such as "train.py:12"."""
        return f"{os.path.basename(self.file)}:{self.line}" if self.line else self.module


@dataclass(frozen=True)
class Report:
    """The Functions that ran, those with the most time first; ``str()`` of it is a table of at most 80 columns.

    Args:
        seconds: how long was recorded.
        process: the number of the process.
        program: what ran.
        functions: its Functions. One that calls another has the time of the other in its own, too.
    """

    seconds: float
    process: int
    program: str
    functions: tuple[FunctionTimes, ...]

    def to_json(self, indent: int | None = 2) -> str:
        """All of it with the sums as the text of a JSON object, times in seconds, sizes in bytes.

        ``indent`` is the number of spaces by which it is indented; None for one line.
        """
        data = dataclasses.asdict(self)
        for entry, function in zip(data["functions"], self.functions, strict=True):
            entry.update(
                total=function.total,
                share=function.total / self.seconds,
                overhead=function.overhead,
                stock_extra=function.stock_extra,
            )
            for name in ("forward", "backward"):
                times: Times = getattr(function, name)
                entry[name].update(overhead_total=times.overhead_total, stock_overhead=times.stock_overhead)
        return json.dumps(data, indent=indent)

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Writes a page with plots and the table to ``path``. It needs nothing besides: no script, no network.

        Raises:
            OSError: the file can't be written.
        """
        from . import page

        page.write(self, path)

    def __str__(self) -> str:
        from . import table

        return table.as_text(self)

    def __rich__(self) -> object:
        from . import table

        return table.as_rich(self)
