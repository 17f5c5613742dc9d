# SPDX-License-Identifier: BSD-3-Clause
"""Stock torch and torch_ext side by side, on a user's own program or tests.

``watch()`` compares the first calls of each Function while a program runs.

===================  ==========================================================
``sides``            going from one side to the other
``watching``         :func:`watch`
``running``          calling a Function on either side
``copying``          the arguments of a call, to make it again
``recording``        what can be seen of what a call gives
``random_state``     the random numbers to come
``texts``            texts of two runs, made comparable
===================  ==========================================================
"""

from .sides import Sides
from .watching import Difference, Watch, watch

__all__ = ["Difference", "Sides", "Watch", "watch"]
