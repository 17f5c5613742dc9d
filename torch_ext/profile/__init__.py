# SPDX-License-Identifier: BSD-3-Clause
"""How much time a program spends in its custom Functions, and how much of that is the cost of calling them.

::

    with torch_ext.profile.record() as recorded:
        train()
    print(recorded)
    recorded.to_html("functions.html")
"""

from .facts import FunctionTimes, Report, Times
from .recording import Record, record

__all__ = ["FunctionTimes", "Record", "Report", "Times", "record"]
