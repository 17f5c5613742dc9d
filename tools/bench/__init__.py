# SPDX-License-Identifier: BSD-3-Clause
"""What a call of a custom Function costs on torch_ext and on stock: ``python -m tools.bench``.

- ``rows``: what is measured
- ``goals``: the ratios to reach, by torch version
- ``measure``: how it is timed
- ``instructions``: how they are counted
- ``memory``: what anomaly mode keeps
- ``child``: processes that are started
- ``against``: the same with another interpreter
- ``report``: the outcome as JSON
- ``tables``: and for people

Commands of their own:

- ``import_time``: what importing torch_ext takes
- ``growth``: costs as chains and arguments grow
- ``end_to_end``: whole training steps
- ``docs``: measures all of that, and redraws the tables and the pictures (``plots``) of the pages
"""
