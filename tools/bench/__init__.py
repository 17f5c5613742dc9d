# SPDX-License-Identifier: BSD-3-Clause
"""What a call of a custom Function costs on torch_ext and on stock: ``python -m tools.bench``.

- ``rows``: what is measured
- ``goals``: the ratio to reach in each row, by torch version
- ``measure``: how it is timed
- ``memory``: what anomaly mode keeps
- ``report``: the table and the JSON

Commands of their own:

- ``import_time``: what importing torch_ext takes
- ``growth``: costs as chains and arguments grow
- ``end_to_end``: whole training steps
- ``docs``: measures all of that, and redraws the tables and the pictures (``plots``) of the pages
"""
