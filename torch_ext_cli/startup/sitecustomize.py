# SPDX-License-Identifier: BSD-3-Clause
"""What Python imports as it starts in ``torch-ext run``, whose PYTHONPATH begins with this folder.

Leaves no trace but the variables of the environment, which are for the Python processes that the program starts.
"""

import os
import sys

_folder = os.path.dirname(os.path.abspath(__file__))
_root = os.path.dirname(os.path.dirname(_folder))

sys.path[:] = [each for each in sys.path if os.path.abspath(each or os.curdir) != _folder]
sys.path.insert(0, _root)
try:
    from torch_ext_cli import startup
finally:
    sys.path.remove(_root)
startup.begin(_root)

# The environment's own, if it has one. If not, Python is told so and goes on, as it does without us.
del sys.modules["sitecustomize"]
import sitecustomize  # noqa: E402, F401
