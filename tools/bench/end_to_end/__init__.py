# SPDX-License-Identifier: BSD-3-Clause
"""Whole training steps on stock torch and on torch_ext: ``python -m tools.bench.end_to_end``.

- ``programs``: what is trained
- ``measure``: how its steps are timed, in turns
- ``processes``: the same in two processes that exchange gradients
"""
