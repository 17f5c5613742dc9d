# SPDX-License-Identifier: BSD-3-Clause
"""Running a user's own tests on torch_ext, or on stock torch and on torch_ext.

==============  ==============================================================
``running``     a test's side
``comparing``   running a test twice, and what is reported
``outcome``     what of a run is compared
``starting``    that both runs begin alike: random numbers, what is on the item
==============  ==============================================================
"""

from .comparing import Comparing
from .running import Running

__all__ = ["Comparing", "Running"]
