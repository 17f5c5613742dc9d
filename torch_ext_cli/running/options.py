# SPDX-License-Identifier: BSD-3-Clause
"""What ``torch-ext run`` is asked for besides the drop-in itself."""

import dataclasses
import json
import os
from dataclasses import dataclass
from typing import Literal

Anomaly = Literal["nan", "forward", "deferred", "notes"]
Strict = Literal["warn", "error"]


@dataclass(frozen=True)
class Options:
    """What to do in the program, and at its end.

    Args:
        report: whether to print the table of the Functions that ran.
        html, json: absolute paths of the files to write; "" for none.
        anomaly: which checks; "" for no anomaly mode.
        strict: what advice does to the exit status; "" for no advice.
        compare: how many calls of each Function to compare with stock torch.
        process: the process that was started; others are its children.
    """

    report: bool = False
    html: str = ""
    json: str = ""
    anomaly: Anomaly | Literal[""] = ""
    strict: Strict | Literal[""] = ""
    compare: int = 0
    process: int = 0

    @property
    def profile(self) -> bool:
        """Whether calls are timed."""
        return self.report or bool(self.html or self.json)

    @property
    def is_child(self) -> bool:
        """Whether this process is one that the program has started."""
        return os.getpid() != self.process

    def to_text(self) -> str:
        """The options as the text of a variable."""
        return json.dumps(dataclasses.asdict(self))


def from_text(text: str) -> Options:
    """What :meth:`Options.to_text` wrote."""
    return Options(**json.loads(text))
