# SPDX-License-Identifier: BSD-3-Clause
"""The differential fuzzer: ``python -m tools.fuzz`` runs random programs on stock torch and on torch_ext.

A file for each step of a program's way:

==================  ==========================================================
``choices``         tables to choose from, by facility
``functions``       draws custom Functions
``steps``           draws what a program does with them
``program``         a program as data, and as the text of a runnable file
``toolbox``         what that text calls
``compare``         runs the text on both implementations and compares them
``threads``         runs it on several threads at once and compares them
``search``          programs by their number; the smallest one with a difference
``workers``         processes that run programs, and may crash
``report``          the table of facilities
==================  ==========================================================

Programs are run and compared by the code of the parity scenarios (``tests/harness``), so the checkout is needed.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2] / "tests"
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))
